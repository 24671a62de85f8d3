"""The arguments of the command line: a flag for each setting, and the flag that was meant by one that is unknown."""

import argparse
import re
import sys
from typing import Any

from rlhf_engine import config as configs
from rlhf_engine.console import typed_text
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.files import expand_user
from rlhf_engine.spelling import closest
from rlhf_engine.stages import STAGES

HELP = {"chat": "talk to a model or a checkpoint",
        "evaluate": "compare two checkpoints on the same prompts",
        "export": "write an adapter, or the model merged with it, for others to load"}
PATHS = (*configs.PATHS, "against", "judge", "config")
"""Arguments that may name a file or a folder."""


class Parser(argparse.ArgumentParser):
    """argparse with the contract's manners: one line on stderr, exit 2."""

    def error(self, message: str):
        switch = re.fullmatch(r"argument (\S+): ignored explicit argument .*", message)
        if switch:
            message = f"{switch[1].replace('/', ' or ')} is a switch, which takes no value"
        raise UserError(f"{message}; see {self.prog} --help")

    def parse_args(self, args=None, namespace=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        """As argparse does it, but an unknown flag comes first, with the one that was probably meant."""
        args = sys.argv[1:] if args is None else list(args)
        command = self.command(args)
        if command:
            check_flags(args, command)
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            raise UserError(f"{unknown[0]!r} belongs to no flag; a switch takes no value (such as --guard or "
                            "--no-guard), and a value with spaces stands in quotes; see "
                            f"{command.prog if command else self.prog} --help")
        return known

    def command(self, args: list[str]) -> argparse.ArgumentParser | None:
        """The parser of the command in `args`, if there is one."""
        [commands] = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return next((commands.choices[arg] for arg in args if arg in commands.choices), None)


def check_flags(args: list[str], command: argparse.ArgumentParser) -> None:
    """Raises UserError for the first flag that a command does not know, with the one that was probably meant.

    argparse takes the beginning of a flag for the whole, so that is known, too.
    """
    flags = [flag for flag in command._option_string_actions if flag.startswith("--")]
    given_args = args[:args.index("--")] if "--" in args else args
    for before, arg in zip(["", *given_args], given_args):
        given = arg.partition("=")[0]
        if not re.fullmatch(r"(--|-(?=[a-z]{2})|[\u2010-\u2015\u2212])[A-Za-z][\w-]*", given):
            continue
        is_value = not arg.startswith("-") and before in flags  # a text that begins with a long dash
        if is_value or any(flag.startswith(given) for flag in flags):
            continue
        meant = closest(given, flags)
        mend = f"did you mean {meant}? See" if meant else "see"
        raise UserError(f"{command.prog.split()[-1]} has no flag {given}; {mend} {command.prog} --help")


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m rlhf_engine",
                    description="SFT, reward model and PPO as adapters on one frozen base.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for stage in STAGES.values():
        config = stage.config
        about = (config.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(stage.name, help=stage.help, description=about)
        command.add_argument("--config", metavar="FILE.yaml",
                             help="settings from a file, such as a run's config.yaml; flags win")
        command.add_argument("--resume", action="store_true",
                             help="go on with the run in --output, perhaps to other --steps")
        command.add_argument("--overwrite", action="store_true", help="replace the run in --output")
        add_fields(command, config)
    chat = commands.add_parser("chat", help=HELP["chat"])
    chat.add_argument("--prompt", help="what to say; without it, a conversation line by line")
    add_sampling(chat)
    add_evaluate(commands.add_parser("evaluate", help=HELP["evaluate"]))
    add_export(commands.add_parser("export", help=HELP["export"]))
    return parser


def add_fields(parser: argparse.ArgumentParser, config) -> None:
    """A flag per config field, its help from the doc line. A flag that is not given stays out of the namespace."""
    docs = configs.docs(config)
    for name, kind in configs.field_types(config).items():
        default = getattr(config, name)
        text = f"{docs[name]} ({default if default != '' else 'empty'})".replace("%", "%%")
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": text}
        if kind is bool:
            options["action"] = argparse.BooleanOptionalAction
        else:
            options["metavar"] = name.split("_")[-1].upper()
        parser.add_argument(configs.flag(name), **options)
        for old in configs.old_names(name):
            options["help"] = argparse.SUPPRESS
            parser.add_argument(configs.flag(old), **options)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="bundled", help="bundled, smollm2, a Hub id, a .gguf file or a local folder")
    parser.add_argument("--adapter", default="none", help="none, bundled, a run folder or a PEFT folder")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16", "nf4"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the most likely token")
    parser.add_argument("--seed", type=int, default=0)


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", required=True,
                        help="the adapter to compare with: none, bundled, a run or a PEFT folder")
    parser.add_argument("--data", default="bundled-heldout", help="prompts")
    parser.add_argument("--subset", default="", help="configuration name of a Hub data set that has several")
    parser.add_argument("--split", default="", help="split of a Hub data set; empty means train")
    parser.add_argument("--judge", required=True, help="FILE.py:FUNCTION or a reward run")
    parser.add_argument("--output", required=True, help="folder for report.json and samples.jsonl")
    parser.add_argument("--per-prompt", type=int, default=2, help="samples per prompt and side (2)")
    parser.add_argument("--limit", type=int, default=0, help="use at most this many prompts; 0 is all")
    parser.add_argument("--overwrite", action="store_true", help="replace what is in --output")
    add_sampling(parser)


def add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="bundled",
                        help="the base that the adapter was trained on: bundled, smollm2, a Hub id, a .gguf file or a "
                             "local folder")
    parser.add_argument("--adapter", required=True, help="bundled, a run folder, its checkpoint or a PEFT folder")
    parser.add_argument("--output", required=True, help="new folder to write; one that holds anything is refused")
    parser.add_argument("--merge", action="store_true",
                        help="a whole model: the adapter merged into the base in full precision")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16"),
                        help="of a merged model; auto is the base's own")
    parser.add_argument("--push", default="", metavar="OWNER/NAME",
                        help="push it to this new repository of the Hub, too; private")
    parser.add_argument("--public", action="store_true", help="push to a public repository")


def clean_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with a `~` of each path spelled out. Raises UserError for a path that is no UTF-8 text."""
    for name, value in vars(args).items():
        if isinstance(value, str) and name == "prompt":
            args.prompt = typed_text(value)
        elif isinstance(value, str):
            setattr(args, name, configs.check_text(name, expand_user(value) if name in PATHS else value))
    return args


def check_number(args: argparse.Namespace, name: str, low: int, high: int) -> None:
    """Raises UserError, with the range, for a number that is out of it or NaN."""
    value = getattr(args, name)
    if not low <= value <= high:
        raise UserError(f"{configs.flag(name)} is {short_repr(value)}, but must be at least {low} and at most {high}")
