"""The command `report`: what a run changed, what it cost, and whether anything was learned, as files to share.

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_engine.arguments import check_number
from rlhf_engine.commands.results import MOST_SAMPLES, add_results, check_folder, read_data
from rlhf_engine.commands.sampling import add_sampling
from rlhf_engine.commands.scorers import SCORES, load_scorer
from rlhf_engine.config import LARGEST_SEED, MOST_TOKENS
from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.report.subject import Subject, base_of, read_subject, run_of
from rlhf_engine.feedback.scoring_functions import is_function
from rlhf_engine.files import expand_user
from rlhf_engine.runs.resolve import resolve_adapter, resolve_reward

if TYPE_CHECKING:
    pass

HELP = "what a run changed and what it cost: an HTML file, a card and report.json"
FILES = ("report.html", "report.json", "samples.jsonl", "card.png")
MOST_JUDGES = 6


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", default="", help="what to compare with; empty is what the run started from")
    parser.add_argument("--judge", nargs="+", default=[],
                        help=f"what scores the responses, one or several: {SCORES}. A built-in one that the run was "
                             "taught or rewarded by, and its reward run, are judges without being named")
    parser.add_argument("--per-prompt", type=int, default=4, help="samples per prompt and side (4)")
    add_results(parser)
    add_sampling(parser)
    parser.set_defaults(model="", adapter="", data="", max_new_tokens=0, temperature=-1.0, limit=100)


def run(args: argparse.Namespace) -> None:
    """Measure a run, and write its report."""
    output = Path(args.output)
    check_folder(output, "a report", overwrite=args.overwrite, files=FILES)
    if not args.adapter:
        raise UserError("--adapter is missing: name the run, or another adapter, that the report is about")
    subject = find_subject(args)
    check_number(args, "per_prompt", 1, MOST_SAMPLES)
    check_number(args, "max_new_tokens", 1, MOST_TOKENS)
    check_number(args, "temperature", 0, 10)
    check_number(args, "seed", 0, LARGEST_SEED)
    prompts = read_data(args)
    specs = judge_specs(subject, args.judge)
    makers = [(spec, load_scorer(spec, "--judge", role=f"judge {place}", prompt=prompts[0]))
              for place, spec in enumerate(specs)]
    start = resolve_adapter(subject.start, args.model)
    from rlhf_engine.evaluation.report.evidence import Judge
    from rlhf_engine.evaluation.report.writing import complete, measure, write_report
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    if start:
        backbone.load_role("start", start, head=False)
    if subject.folder and subject.makes == "policy":
        backbone.load_role("policy", subject.folder, head=False)
    judges = [Judge(name_of(spec), make(backbone), is_model=is_model(spec), is_trainer=is_trainer(spec, subject))
              for spec, make in makers]
    evidence, rows = measure(
        backbone, "policy" if subject.folder else None, "start" if start else None, subject, list(prompts), judges,
        per_prompt=args.per_prompt, sampling=Sampling(args.max_new_tokens, args.temperature), seed=args.seed)
    evidence["notes"] = prompts.remarks + evidence["notes"]
    reward = reward_run(subject)
    settings = {"model": args.model, "adapter": args.adapter, "against": subject.start,
                "against_name": start_name(subject), "data": args.data, "seed": args.seed, "command": command(args)}
    report = complete(subject, evidence, settings, reward)
    write_report(output, subject, report, rows, reward)
    print_report(report, output)


# -- what the run says -------------------------------------------------------------------------------------------------

def find_subject(args: argparse.Namespace) -> Subject:
    """The subject of the report; settings that were not given are taken from its run. Raises UserError."""
    subject = read_subject(args.adapter, args.model or "bundled", args.against)
    args.model = args.model or str(subject.config.get("model") or base_of(subject.folder) or "bundled")
    args.max_new_tokens = args.max_new_tokens or int(subject.config.get("max_new_tokens") or 128)
    args.temperature = args.temperature if args.temperature >= 0 else float(subject.config.get("temperature", 1.0))
    if not args.data:
        data = str(subject.config.get("data", "bundled"))
        if args.model != "bundled" and data == "bundled":
            raise UserError("--data is missing: name prompts that the run was not trained on")
        args.data = "bundled-heldout" if data == "bundled" else data
    return subject


def judge_specs(subject: Subject, given: list[str]) -> list[str]:
    """What judges: those given, then what the run was taught or rewarded by, where that may be loaded by itself."""
    if subject.makes == "reward":
        return [str(subject.folder.parent if subject.folder else "")]
    own = [subject.built_in_scorer] if subject.built_in_scorer else []
    reward = expand_user(str(subject.config.get("reward", "")))
    if reward and not own and Path(reward).is_dir():
        own = [reward]
    specs = list(dict.fromkeys([*given, *own]))
    if len(specs) > MOST_JUDGES:
        raise UserError(f"--judge names {len(given)} judges, but a report has {MOST_JUDGES} at most: name fewer")
    return specs


def is_model(spec: str) -> bool:
    """Whether SPEC is a reward model: a folder."""
    return Path(expand_user(spec)).is_dir()


def is_trainer(spec: str, subject: Subject) -> bool:
    """Whether SPEC is what the run was taught or rewarded by."""
    return same_place(spec, subject.scorer) or subject.makes == "reward"


def same_place(one: str, other: str) -> bool:
    """Whether two scorers are the same: equal words, or folders that hold the same reward."""
    if one == other:
        return True
    if not (one and other and is_model(one) and is_model(other)):
        return False
    return resolve_reward(one, "--judge").resolve() == resolve_reward(other, "--judge").resolve()


def reward_run(subject: Subject) -> Subject | None:
    """The reward run that a policy was trained on, if its folder is still there."""
    reward = Path(expand_user(str(subject.config.get("reward", ""))))
    if not str(subject.config.get("reward", "")) or not reward.is_dir() or run_of(reward) is None:
        return None
    try:
        return read_subject(str(reward), "bundled")
    except UserError:  # a run that is broken says nothing
        return None


# -- words -------------------------------------------------------------------------------------------------------------

def name_of(spec: str) -> str:
    """A judge as others may read it: the name of a function or of a folder, without where it lies."""
    if is_function(spec):
        return spec.rpartition(":")[2]
    return Path(spec).name if is_model(spec) else spec


def start_name(subject: Subject) -> str:
    """What it is compared with, in words."""
    return "the bare base" if subject.start in ("none", "") else "its start"


def command(args: argparse.Namespace) -> str:
    """The command that makes this report again, without a path of this machine."""
    words = ["python -m rlhf_engine report", f"--adapter {shlex.quote(Path(args.adapter).name or args.adapter)}"]
    words += [f"--judge {' '.join(shlex.quote(Path(spec).name) for spec in args.judge)}"] if args.judge else []
    words += [f"--data {shlex.quote(args.data if '/' not in args.data else Path(args.data).name)}",
              f"--per-prompt {args.per_prompt}", f"--seed {args.seed}", "--output REPORT"]
    return " \\\n  ".join(words)


def print_report(report: dict, output: Path) -> None:
    for note in report["notes"]:
        print(note)
    for row in report["judges"]:
        if "win_rate" in row:
            print(f"{row['win_rate']:.1%} wins ({row['win_rate_low']:.1%} to {row['win_rate_high']:.1%}) by "
                  f"{row['judge']} over {report['samples']} samples")
    if "kl" in report:
        print(f"KL {report['kl']:.2f} nats a response; perplexity x{report['perplexity_ratio']:.2f}, distinct-2 "
              f"x{report['distinct_ratio']:.2f}, empty {report['empty']:.1%}")
    for flag in report["verdicts"]:
        print(f"{flag['name']}: {flag['text']}")
    print(f"{output / 'report.html'} is the report{'' if report['verdicts'] else '; no flag was raised'}")
