"""The arguments of the command line: a flag for each setting, the flag that was meant by one that is unknown, and the
command that says the same as some settings."""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rlhf_engine import config as configs
from rlhf_engine.console import typed_text
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.files import expand_user
from rlhf_engine.spelling import closest
from rlhf_engine.stages import STAGES

PATHS = (*configs.PATHS, "against", "judge", "config")
"""Arguments that may name a file or a folder."""


class Command(Protocol):
    """A command that is no stage. The modules of `rlhf_engine/commands` fulfil it."""

    @property
    def HELP(self) -> str:
        """One line for the command line."""
        ...

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Give the parser of the command its arguments."""
        ...

    def run(self, args: argparse.Namespace) -> None:
        """Do it. Raises UserError for bad input."""
        ...


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


def make_parser(others: Mapping[str, "Command"]) -> argparse.ArgumentParser:
    """The parser of all stages, and of the `others` by name."""
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
    for name, command in others.items():
        command.add_arguments(commands.add_parser(name, help=command.HELP))
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


def differing(stage: str, settings: dict, here: Path | None = None) -> dict:
    """The settings that are not at their default, in the order of the fields, with paths relative to `here` (the
    working directory)."""
    config = STAGES[stage].config
    values = {name: settings.get(name, getattr(config, name)) for name in configs.field_types(config)}
    return {name: relative_path(value, here or Path.cwd()) if isinstance(value, str) else value
            for name, value in values.items() if value != getattr(config, name)}


def relative_path(value: str, here: Path) -> str:
    """An absolute path inside `here` as a relative one; anything else as it is."""
    path = Path(value)
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else value


def command_line(stage: str, settings: dict, *, resume: bool = False, here: Path | None = None) -> str:
    """`python -m rlhf_engine STAGE` with a flag for each setting that is not at its default, a flag a line.

    A resumed run needs only its folder. Paths are relative to `here`.
    """
    words = [f"python -m rlhf_engine {stage}"]
    for name, value in differing(stage, settings, here).items():
        if resume and name != "output":
            continue
        if isinstance(value, bool):
            words.append(configs.flag(name) if value else configs.flag("no_" + name))
        else:
            words.append(f"{configs.flag(name)} {shlex.quote(str(value))}")
    if resume:
        words.append("--resume")
    return " \\\n  ".join(words)


def add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="bundled", help="bundled, smollm2, a Hub id, a .gguf file or a local folder")
    parser.add_argument("--adapter", default="none", help="none, bundled, a run folder or a PEFT folder")
    parser.add_argument("--dtype", default="auto", choices=("auto", "fp32", "bf16", "nf4"))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0, help="0 takes the most likely token")
    parser.add_argument("--seed", type=int, default=0)


def clean_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with a `~` of each path spelled out. Raises UserError for a path that is no UTF-8 text."""
    def clean(name: str, value: str) -> str:
        return configs.check_text(name, expand_user(value) if name in PATHS else value)

    for name, value in vars(args).items():
        if isinstance(value, str) and name == "prompt":
            args.prompt = typed_text(value)
        elif isinstance(value, str):
            setattr(args, name, clean(name, value))
        elif isinstance(value, list):
            setattr(args, name, [clean(name, each) if isinstance(each, str) else each for each in value])
    return args


def check_number(args: argparse.Namespace, name: str, low: int, high: int) -> None:
    """Raises UserError, with the range, for a number that is out of it or NaN."""
    value = getattr(args, name)
    if not low <= value <= high:
        raise UserError(f"{configs.flag(name)} is {short_repr(value)}, but must be at least {low} and at most {high}")


def check_sampling(args: argparse.Namespace) -> tuple[int, float]:
    """(longest response in tokens, temperature) of a command. Raises UserError for values out of bounds."""
    check_number(args, "max_new_tokens", 1, configs.MOST_TOKENS)
    check_number(args, "temperature", 0, 10)
    check_number(args, "seed", 0, configs.LARGEST_SEED)
    return args.max_new_tokens, args.temperature
