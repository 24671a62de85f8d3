"""The command `report`: what a run changed, what it cost, and whether anything was learned, as files to share.

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_engine.arguments import add_sampling, check_number
from rlhf_engine.commands.results import MOST_SAMPLES, add_results, check_folder, read_data
from rlhf_engine.commands.scorers import INSTRUCTION_HELP, JUDGES, load_judges, load_scorer
from rlhf_engine.commands.tax import NONE, add_inputs, read_inputs
from rlhf_engine.config import LARGEST_SEED, MOST_TOKENS
from rlhf_engine.data.readers import Rows
from rlhf_engine.errors import UserError, noop
from rlhf_engine.evaluation.lineage import run_of, trainer_of
from rlhf_engine.evaluation.report.subject import Subject, base_of, read_subject
from rlhf_engine.feedback.scoring_functions import built_in, is_function
from rlhf_engine.files import expand_user
from rlhf_engine.runs.inputs import folder_hash
from rlhf_engine.runs.resolve import BUNDLED_ADAPTER, resolve_adapter

if TYPE_CHECKING:
    from rlhf_engine.evaluation.report.evidence import Witness
    from rlhf_engine.model.backbone import Backbone

HELP = "what a run changed and what it cost: an HTML file, a card and report.json"
FILES = ("report.html", "report.json", "samples.jsonl", "card.png")
ROLES = ("policy", "start")
"""The roles of a backbone that a report loads."""
MOST_JUDGES = 6
"""Judges of a report, at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--against", default="", help="what to compare with; empty is what the run started from")
    parser.add_argument("--judge", nargs="+", default=[],
                        help=f"what scores the responses, one or several: {JUDGES}. A built-in one that the run was "
                             "taught or rewarded by, and its reward run, are judges without being named")
    parser.add_argument("--instruction", default="", help=INSTRUCTION_HELP)
    parser.add_argument("--per-prompt", type=int, default=4, help="samples per prompt and side (4)")
    add_results(parser)
    add_sampling(parser)
    add_inputs(parser)
    parser.set_defaults(model="", adapter="", data="", max_new_tokens=0, temperature=-1.0, limit=100)


def run(args: argparse.Namespace) -> None:
    """Measure a run, and write its report."""
    plan = check(args)
    from rlhf_engine.model.backbone import Backbone
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    print_report(make(plan, backbone), plan.output)


@dataclass(frozen=True)
class Plan:
    """A report that may be made: everything but the model has been read."""

    args: argparse.Namespace
    output: Path
    subject: Subject
    prompts: Rows
    specs: list[str]
    """The judges."""
    makers: list[Callable]
    """For each of them a function that makes it from a backbone."""
    shift: tuple[str, Callable] | None
    """The name of the scoring function whose shift over the checkpoints is measured, and what makes it."""
    texts: Sequence
    pairs: Sequence
    """What the tax is measured on; of a reward model nothing."""


def check(args: argparse.Namespace) -> Plan:
    """Read what a report needs but the model. Raises UserError for bad input."""
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
    makers = load_judges(specs, instruction=args.instruction, seed=args.seed, device=args.device, prompt=prompts[0])
    texts, pairs = read_inputs(args) if subject.makes == "policy" else ([], [])
    return Plan(args, output, subject, prompts, specs, makers, find_shift(subject, specs), texts, pairs)


def make(plan: Plan, backbone: "Backbone", *, roles: Sequence[str] = ROLES,
         on_microbatch: Callable[[], None] = noop) -> dict[str, Any]:
    """Measure what a plan names on a backbone with its base, and write the report; returns report.json.

    `roles` are the names under which the policy and its start are loaded; they stay. `on_microbatch` is called between
    forward passes and after each sampled token. Raises UserError.
    """
    from rlhf_engine.evaluation.report.evidence import measure_cost, measure_policy, measure_reward, measure_way
    from rlhf_engine.evaluation.report.writing import complete, write_report
    from rlhf_engine.model.generation import Sampling
    args, subject = plan.args, plan.subject
    policy, start = load_roles(backbone, subject, roles)
    options: dict[str, Any] = {"per_prompt": args.per_prompt, "seed": args.seed, "on_microbatch": on_microbatch,
                               "sampling": Sampling(args.max_new_tokens, args.temperature)}
    if subject.makes == "reward":
        score = load_scorer(str(subject.folder), "--adapter", role=f"judge of {roles[0]}")(backbone)
        evidence, rows = measure_reward(backbone, start, list(plan.prompts), score, subject.name, **options)
    else:
        witnesses = [witness(spec, maker(backbone), args.adapter) for spec, maker in zip(plan.specs, plan.makers)]
        evidence, rows = measure_policy(backbone, policy, start, list(plan.prompts), witnesses, **options)
        evidence["tax"] = measure_cost(backbone, policy, start, plan.texts, plan.pairs, on_microbatch=on_microbatch)
        if plan.shift:
            name, maker = plan.shift
            evidence["shift"] = measure_way(backbone, subject, list(plan.prompts), {name: maker(backbone)},
                                            {**options, "per_prompt": 1}, [f"{role} of the way" for role in roles])
    evidence["notes"] = [*plan.prompts.remarks, *subject.notes, *evidence["notes"]]
    settings = {"model": args.model, "adapter": args.adapter, "against": start_name(subject),
                "against_name": "its start" if subject.start else "the bare base", "data": args.data,
                "judge": plan.specs[0] if plan.specs else "", "seed": args.seed, "command": command(args),
                "weights": folder_hash(subject.folder) if subject.folder else ""}
    reward = reward_run(subject)
    report = complete(subject, evidence, settings, reward)
    write_report(plan.output, subject, report, rows, reward)
    return report


def arguments_of(settings: Mapping[str, Any]) -> argparse.Namespace:
    """The arguments of a report from some of them by name; the others have their defaults."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return argparse.Namespace(**{**vars(parser.parse_args(["--output", ""])), **settings})


# -- what the run says -------------------------------------------------------------------------------------------------

def find_subject(args: argparse.Namespace) -> Subject:
    """The subject of the report; settings that were not given are taken from its run. Raises UserError."""
    run = run_of(args.adapter)
    args.model = args.model or str((run.config().get("model") if run else "")
                                   or base_of(resolve_adapter(args.adapter, "bundled")) or "bundled")
    subject = read_subject(args.adapter, args.model, args.against)
    args.max_new_tokens = args.max_new_tokens or int(subject.config.get("max_new_tokens") or 128)
    args.temperature = args.temperature if args.temperature >= 0 else float(subject.config.get("temperature", 1.0))
    if not args.data:
        data = str(subject.config.get("data", "bundled"))
        if args.model != "bundled" and data == "bundled":
            raise UserError("--data is missing: name prompts that the run was not trained on")
        args.data = "bundled-heldout" if data == "bundled" else data
    return subject


def judge_specs(subject: Subject, given: list[str]) -> list[str]:
    """What judges: those given, then what the run was taught or rewarded by, where that may be loaded by itself.

    A file with a function is never run because a run folder names it.
    """
    if subject.makes == "reward":
        if given:
            raise UserError("--judge is for a policy, and this run trained a reward model: leave it out")
        return []
    own = [subject.built_in_scorer] if subject.built_in_scorer else []
    reward = expand_user(str(subject.config.get("reward") or ""))
    if subject.has_run and reward and not own and Path(reward).is_dir():
        own = [reward]
    specs = [*given, *(spec for spec in own if spec not in given)]
    if len(specs) > MOST_JUDGES:
        raise UserError(f"--judge names {len(given)} judges, but a report has {MOST_JUDGES} at most: name fewer")
    return specs


def find_shift(subject: Subject, specs: list[str]) -> tuple[str, Callable] | None:
    """The first judge that is a scoring function, if the run has checkpoints to measure; else None."""
    functions = [spec for spec in specs if built_in(spec) or is_function(spec)]
    if len(subject.checkpoints) < 2 or not functions:
        return None
    return name_of(functions[0]), load_scorer(functions[0], "--judge")


def reward_run(subject: Subject) -> Subject | None:
    """The reward run that a policy was trained on, if its folder is still there."""
    run = run_of(str(subject.config.get("reward") or ""))
    try:
        return read_subject(str(run.path), "bundled") if run else None
    except UserError:  # a run that is broken says nothing
        return None


# -- loading -----------------------------------------------------------------------------------------------------------

def load_roles(backbone: "Backbone", subject: Subject, roles: Sequence[str]) -> tuple[str | None, str | None]:
    """Load policy and start; returns their roles. None is the bare base, and of a reward model there is no policy."""
    policy, start = roles
    if subject.start:
        backbone.load_role(start, subject.start, head=False)
    folder = subject.folder if subject.makes == "policy" else None
    if folder:
        backbone.load_role(policy, folder, head=False)
    return policy if folder else None, start if subject.start else None


def witness(spec: str, referee, adapter: str) -> "Witness":
    """A judge of the report, and what it has to do with the run."""
    from rlhf_engine.evaluation.report.evidence import Witness
    source = trainer_of(spec, adapter)
    kind = source.kind if source else ""
    return Witness(referee, name_of(spec), is_model=is_model(spec), is_trainer=kind == "reward",
                   is_labeler=kind == "labeler")


def is_model(spec: str) -> bool:
    """Whether SPEC is a reward model: a folder."""
    return Path(expand_user(spec)).is_dir()


# -- words -------------------------------------------------------------------------------------------------------------

def name_of(spec: str) -> str:
    """A judge as others may read it: the name of a function or of a folder, without where it lies."""
    if is_function(spec):
        return spec.rpartition(":")[2]
    return Path(spec).name if is_model(spec) else spec


def start_name(subject: Subject) -> str:
    """ADAPTER that the subject is compared with."""
    if subject.start is None:
        return "none"
    return "bundled" if subject.start == BUNDLED_ADAPTER else str(subject.start)


def command(args: argparse.Namespace) -> str:
    """The command that makes this report again, without a path of this machine."""
    words = ["python -m rlhf_engine report", f"--adapter {shlex.quote(Path(args.adapter).name or args.adapter)}"]
    words += [f"--judge {' '.join(shlex.quote(Path(spec).name) for spec in args.judge)}"] if args.judge else []
    words += [f"--{name} {NONE}" for name in ("text", "pairs") if getattr(args, name) == NONE]
    words += [f"--data {shlex.quote(Path(args.data).name)}", f"--limit {args.limit}",
              f"--per-prompt {args.per_prompt}", f"--seed {args.seed}", "--output REPORT"]
    return " \\\n  ".join(words)


def print_report(report: dict, output: Path) -> None:
    for note in report["notes"]:
        print(note)
    for row in report["judges"]:
        if "win_rate" in row:
            print(f"{row['win_rate']:.1%} wins ({row['win_rate_low']:.1%} to {row['win_rate_high']:.1%}) by "
                  f"{row['name']} over {report['samples']} samples")
    if "kl" in report:
        print(f"KL {report['kl']:.2f} nats a response; perplexity x{report['perplexity_ratio']:.2f}, distinct-2 "
              f"x{report['distinct_ratio']:.2f}, empty {report['empty']:.1%}")
    for finding in report["findings"]:
        print(f"{finding['what']}: {finding['share']:.1%} ({finding['low']:.1%} to {finding['high']:.1%})")
    for flag in report["verdicts"]:
        print(f"{flag['name']}: {flag['text']}")
    print(f"{output / 'report.html'} is the report{'' if report['verdicts'] else '; no flag was raised'}")
