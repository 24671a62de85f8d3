"""Tasks of EleutherAI's lm-evaluation-harness, measured on checkpoints. The package is optional (`lm_eval_bridge`)."""

import importlib.util
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_engine.errors import UserError, first_line, short_repr
from rlhf_engine.evaluation.intervals import paired_interval
from rlhf_engine.evaluation.tax.lm_eval_bridge import PACKAGE, make_language_model
from rlhf_engine.files import expand_user
from rlhf_engine.spelling import closest

if TYPE_CHECKING:
    from rlhf_engine.evaluation.tax.checkpoints import Checkpoint
    from rlhf_engine.model.backbone import Backbone

YAML_SUFFIXES = (".yaml", ".yml")
RESAMPLES = 100
"""Resamplings for the standard errors that the harness finds so."""


def check_tasks(tasks: Sequence[str]) -> None:
    """Raises UserError unless the package is there and knows all tasks. YAML files are tasks, too."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError("--lm-eval needs EleutherAI's lm-evaluation-harness, which is not installed: run `pip install "
                        "lm-eval`, or leave --lm-eval out")
    find_tasks(tasks)


def find_tasks(tasks: Sequence[str]) -> tuple[list[str], Any]:
    """(names of the tasks, a manager of the package that finds them). Raises UserError for one that is not there."""
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)
    names, folders = [], []
    for task in tasks:
        if task.lower().endswith(YAML_SUFFIXES):
            names.append(task_in(Path(expand_user(task))))
            folders.append(str(Path(expand_user(task)).resolve().parent))
        else:
            names.append(task)
    manager = TaskManager(include_path=folders or None)
    for name in names:
        if not manager.match_tasks([name]):  # which knows patterns such as arc_*
            meant = closest(name, manager.all_tasks)
            raise UserError(f"--lm-eval {short_repr(name)}: the installed lm-eval has no such task"
                            f"{f'; did you mean {meant}?' if meant else ''}; `lm-eval ls tasks` lists them")
    return names, manager


def task_in(file: Path) -> str:
    """The name of the task that a YAML file describes. Raises UserError.

    The harness reads the file itself: it has tags of its own, which may name functions beside it.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lm-eval {file}: cannot be read ({first_line(error)}); name a YAML file that describes a "
                        "task") from None
    for key in ("group:", "task:"):
        for line in lines:
            name = line.partition(":")[2].partition(" #")[0].strip().strip("\"'")
            if line.startswith(key) and name:
                return name
    raise UserError(f"--lm-eval {file}: names no task; add a line such as `task: {file.stem}`")


def measure_tasks(backbone: "Backbone", checkpoints: Sequence["Checkpoint"], tasks: Sequence[str],
                  limit: int | None = None) -> dict[str, dict[str, dict[str, Any]]]:
    """For each checkpoint, by its name, and each task: its metrics as the harness computes them.

    A metric has a `value` and a `stderr` (None where the harness has none). Where it is a mean over rows, there is the
    `difference` to the start as well, with a 95 % interval over rows, and the `verdict` on it where the harness says
    whether higher is better. At most `limit` rows of each task are used.

    Raises UserError for a task that cannot be run, such as one whose data cannot be fetched.
    """
    import lm_eval  # pyright: ignore[reportMissingImports]
    names, manager = find_tasks(tasks)
    results, rows, better = {}, {}, {}
    for checkpoint in checkpoints:
        model = make_language_model(backbone, checkpoint.role)
        try:
            found = lm_eval.simple_evaluate(model=model, tasks=manager.match_tasks(names), limit=limit,
                                            task_manager=manager, bootstrap_iters=RESAMPLES)
        except (UserError, MemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # of the harness, of `datasets`, and of whatever a task's own code does
            raise UserError(f"--lm-eval {','.join(tasks)}: lm-eval cannot run it ({first_line(error)}); the data of "
                            "its tasks comes from the Hub") from None
        results[checkpoint.name] = {task: metrics_of(values) for task, values in found["results"].items()}
        better = found.get("higher_is_better") or {}
        rows[checkpoint.name] = {task: row_values(samples) for task, samples in found["samples"].items()}
    for checkpoint in checkpoints:
        if checkpoint.start:
            compare_rows(results[checkpoint.name], rows[checkpoint.name], rows[checkpoint.start.name], better)
    return results


def metrics_of(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The metrics of a task: {name: {value, stderr}}. The harness calls them `name,filter` and `name_stderr,filter`."""
    metrics = {}
    for key, value in values.items():
        name, comma, chosen = key.partition(",")
        if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = values.get(f"{name}_stderr,{chosen}")
        label = name if chosen == "none" else f"{name},{chosen}"
        metrics[label] = {"value": float(value), "stderr": stderr if isinstance(stderr, float) else None}
    return metrics


def row_values(samples: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """For each metric that is a number in every row of a task, these numbers, in the order of the rows."""
    values: dict[str, dict[Any, float]] = defaultdict(dict)
    for sample in samples:
        chosen = sample.get("filter", "none")
        for name in sample.get("metrics", []):
            value = sample.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                values[name if chosen == "none" else f"{name},{chosen}"][sample["doc_id"]] = float(value)
    count = len({sample["doc_id"] for sample in samples})
    return {name: [found[row] for row in sorted(found)] for name, found in values.items() if len(found) == count}


def compare_rows(results: dict[str, dict[str, Any]], ours: dict[str, dict[str, list[float]]],
                 theirs: dict[str, dict[str, list[float]]], better: dict[str, dict[str, Any]]) -> None:
    """Add the difference to the start to each metric that is the mean of its rows. `better` says for each task and
    metric whether higher is better."""
    from rlhf_engine.evaluation.tax.measure import verdict_on
    for task, metrics in results.items():
        for name, metric in metrics.items():
            after, before = ours.get(task, {}).get(name), theirs.get(task, {}).get(name)
            if not after or not before or len(after) != len(before):
                continue
            mean = sum(after) / len(after)
            if not math.isclose(mean, metric["value"], rel_tol=1e-6, abs_tol=1e-9):
                continue
            between = all(0 <= value <= 1 for value in [*after, *before])
            low, high = paired_interval(after, before, low=0.0 if between else -math.inf,
                                        high=1.0 if between else math.inf)
            metric |= {"difference": mean - sum(before) / len(before), "difference_low": low, "difference_high": high}
            higher = better.get(task, {}).get(name.partition(",")[0])
            if isinstance(higher, bool):
                metric["verdict"] = verdict_on(-high, -low) if higher else verdict_on(low, high)
