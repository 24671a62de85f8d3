"""The commands `evaluate` and `best-of`: check their arguments, load model and scores, write a folder with the results.

torch is imported late, so that what can be refused without a model is refused at once.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_engine import config as configs
from rlhf_engine.arguments import check_number, check_sampling
from rlhf_engine.data.readers import Rows, read_prompts
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.feedback.scoring_functions import BUILT_IN, built_in, is_function, load_function, score_text
from rlhf_engine.files import check_place, json_lines, write_json, write_text
from rlhf_engine.runs.resolve import resolve_adapter, resolve_reward

if TYPE_CHECKING:
    from rlhf_engine.evaluation.compare import ScoreFunction
    from rlhf_engine.model.backbone import Backbone

MOST_SAMPLES = 1000
"""Samples per prompt and side of an evaluation, at most."""
SIZES = (1, 2, 4, 8, 16)
"""Each n of a curve of best-of-n, unless the command names others; those above the number of samples are left out."""
BATCH = 32
"""Rows that a reward model scores at a time."""


# -- evaluate ----------------------------------------------------------------------------------------------------------

def evaluate(args: argparse.Namespace) -> None:
    """Compare two checkpoints on the same prompts, and write report.json and samples.jsonl."""
    output = Path(args.output)
    check_folder(output, "an evaluation", overwrite=args.overwrite)
    check_number(args, "per_prompt", 1, MOST_SAMPLES)
    sampling = check_sampling(args)
    prompts = read_data(args)
    folders = {"policy": resolve_adapter(args.adapter, args.model),
               "against": resolve_adapter(args.against, args.model)}
    make_judge = load_scorer(args.judge, "--judge")
    from rlhf_engine.evaluation.compare import compare
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    for role, folder in folders.items():
        if folder:
            backbone.load_role(role, folder, head=False)
    role, against = (name if folder else None for name, folder in folders.items())
    report, samples = compare(backbone, role, against, prompts, make_judge(backbone), per_prompt=args.per_prompt,
                              sampling=Sampling(*sampling), seed=args.seed)
    report["notes"] = prompts.remarks + report["notes"]
    for note in report["notes"]:
        print(note)
    settings = {name: getattr(args, name) for name in ("model", "adapter", "against", "data", "judge", "seed")}
    write_results(output, settings | report, samples)
    print_report(report)


def print_report(report: dict) -> None:
    print(f"{report['win_rate']:.1%} wins ({report['win_rate_low']:.1%} to {report['win_rate_high']:.1%}) "
          f"over {report['samples']} samples; score {report['score']:.3f} against {report['score_against']:.3f}; "
          f"KL {report['kl']:.2f} nats a sequence; perplexity x{report['perplexity_ratio']:.2f}, "
          f"distinct-2 x{report['distinct_ratio']:.2f}, empty {report['empty']:.1%}")


# -- best-of -----------------------------------------------------------------------------------------------------------

def best_of(args: argparse.Namespace) -> None:
    """Measure the best of n responses over n, and write report.json and samples.jsonl."""
    output = Path(args.output)
    check_folder(output, "an evaluation", overwrite=args.overwrite)
    check_number(args, "samples", 1, MOST_SAMPLES)
    sizes = curve_sizes(args.at, args.samples)
    sampling = check_sampling(args)
    if not args.temperature:
        raise UserError("--temperature is 0, at which all responses to a prompt are the same, and none is the best: "
                        "raise it")
    prompts = read_data(args)
    adapter = resolve_adapter(args.adapter, args.model)
    make_proxy = load_scorer(args.reward, "--reward", prompt=prompts[0])
    make_gold = load_scorer(args.judge, "--judge", role="gold", prompt=prompts[0]) if args.judge else None
    from rlhf_engine.evaluation.best_of_curve import measure_best_of
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling
    backbone = Backbone.load(args.model, dtype=args.dtype, device=args.device)
    if adapter:
        backbone.load_role("policy", adapter, head=False)
    report, samples = measure_best_of(
        backbone, "policy" if adapter else None, prompts, make_proxy(backbone),
        make_gold(backbone) if make_gold else None, sizes, samples=args.samples, sampling=Sampling(*sampling),
        seed=args.seed)
    report["notes"] = prompts.remarks + report["notes"]
    if make_gold is None:
        report["notes"].append("there is no --judge, so the reward judges its own choice, and `gold` is `proxy`")
    for note in report["notes"]:
        print(note)
    names = ("model", "adapter", "data", "reward", "judge", "seed", "temperature", "max_new_tokens")
    write_results(output, {name: getattr(args, name) for name in names} | report, samples)
    print_curve(report)


def curve_sizes(given: list[str] | None, samples: int) -> list[int]:
    """Each n of the curve, in ascending order. Raises UserError for what is no number from 1 to `samples`."""
    if not given:
        return [n for n in SIZES if n <= samples]
    sizes = set()
    for text in ",".join(given).split(","):
        if not text.strip():
            continue
        size = int(configs.coerce("at", text.strip(), int))
        if not 1 <= size <= samples:
            raise UserError(f"--at is {size}, but must be at least 1 and at most --samples ({samples}): the best of n "
                            "is taken from the samples of a prompt")
        sizes.add(size)
    if not sizes:
        raise UserError(f"--at is {short_repr(' '.join(given))}, but must be one whole number or several")
    return sorted(sizes)


def print_curve(report: dict) -> None:
    """A small table: a row for each n."""
    print(f"best of n, over {report['prompts']} prompts with {report['per_prompt']} samples each; the KL is in nats a "
          "sequence")
    print(f"{'n':>5} {'gold':>9} {'95 %':>19} {'proxy':>9} {'KL':>6} {'bound':>6} {'wins':>6} {'bound':>6} "
          f"{'tokens':>7} {'distinct-2':>10}")
    for row in report["curve"]:
        wins = "-" if row["win_rate"] is None else f"{row['win_rate']:.1%}"
        between = f"{row['gold_low']:.4g} to {row['gold_high']:.4g}"
        print(f"{row['n']:>5} {row['gold']:>9.4g} {between:>19} {row['proxy']:>9.4g} {row['kl']:>6.2f} "
              f"{row['kl_bound']:>6.2f} {wins:>6} {row['win_rate_bound']:>6.1%} {row['length']:>7.1f} "
              f"{row['distinct_2']:>10.3f}")
    if any(row["win_rate"] is None for row in report["curve"]):
        print(f"no wins of the best of {report['per_prompt']}: there is no further sample to win over; more --samples "
              "give one")


# -- what both read and write ------------------------------------------------------------------------------------------

def read_data(args: argparse.Namespace) -> Rows:
    """The prompts that the arguments name. Raises UserError."""
    check_number(args, "limit", 0, configs.LONGEST)
    return read_prompts(args.data, subset=args.subset or None, split=args.split or None, limit=args.limit or None,
                        model=args.model)


def load_scorer(spec: str, flag: str, role: str = "reward",
                prompt: Prompt | None = None) -> "Callable[[Backbone], ScoreFunction]":
    """A function that makes the scores of SPEC from a backbone, in which a reward model becomes the role `role`.

    File or folder are checked now, before a model is loaded, and a function is tried on a `prompt` with an empty
    response, which a policy may well give. Raises UserError, which names `flag`.
    """
    function = built_in(spec)
    if function is None and is_function(spec):
        function = load_function(spec)
    if function is not None:
        if prompt is not None:
            score_text(function, prompt, "")
        return partial(_text_scorer, partial(score_text, function))
    try:
        folder = resolve_reward(spec, flag)
    except UserError as error:
        names = f"{', '.join(BUILT_IN)}, keyword=WORD or FILE.py:FUNCTION"
        raise UserError(str(error).replace("or FILE.py:FUNCTION", names)) from None
    return partial(_model_scorer, folder, role)


def _text_scorer(score: Callable, backbone: "Backbone") -> "ScoreFunction":
    from rlhf_engine.evaluation.compare import text_judge
    return text_judge(score)


def _model_scorer(folder: Path, role: str, backbone: "Backbone") -> "ScoreFunction":
    from rlhf_engine.rollout.reward_functions import score_all
    backbone.load_role(role, folder, head=True)

    def score(prompts, prompt_ids, response_ids, texts) -> list[float]:
        rows = [prompt + response for prompt, response in zip(prompt_ids, response_ids)]
        return score_all(backbone, rows, batch=BATCH, role=role).tolist()
    return score


def write_results(output: Path, report: dict, samples: list[dict]) -> None:
    """Write report.json and samples.jsonl, both or none. Raises UserError where they cannot be written."""
    new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "samples.jsonl", json_lines(samples))
        write_json(output / "report.json", report)
    except OSError as error:
        for name in ("samples.jsonl", "report.json"):
            (output / name).unlink(missing_ok=True)
        if new and output.is_dir():
            output.rmdir()
        raise UserError(f"{output} cannot be written ({error.strerror or error}): make room or get the right to write "
                        "there, or name another folder with --output") from None


def check_folder(output: Path, what: str, *, overwrite: bool) -> None:
    """Raises UserError for a folder that cannot be made, or holds something that would be lost."""
    check_place(output)
    names = {file.name for file in output.iterdir()} if output.exists() else set()
    if names - {"report.json", "samples.jsonl"}:
        raise UserError(f"{output} holds something else than {what}: name a new folder with --output")
    if names and not overwrite:
        raise UserError(f"{output} holds {what} already: add --overwrite to replace it, "
                        "or name a new folder with --output")
