"""The lists of a run folder, parsed once for each version of a file, for all pages and all browsers."""

import math
from functools import lru_cache
from pathlib import Path

from rlhf_engine.files import expand_user, read_json_or_none, read_lines
from rlhf_engine.measures import VOTES_LEARNED
from rlhf_engine.runs.folder import Run
from rlhf_engine.studies import kl_limits

METRICS, JOURNAL, SAMPLES = "metrics.jsonl", "journal.jsonl", "samples.jsonl"
QUERIES, REPORT = "queries.jsonl", "report.json"
FILES = (METRICS, JOURNAL, SAMPLES, REPORT)
"""The files of a run that pages show and that change while it trains."""
Version = tuple[int, int, int]
"""(inode, time of the last change in nanoseconds, bytes); zeros for a file that does not exist."""


def version_of(path: Path) -> Version:
    """A value that differs whenever the file has changed."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0, 0
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def read_metrics(run: Run) -> list[dict]:
    """The rows of metrics.jsonl, oldest first. Every caller gets the same list: do not change it."""
    return read_rows(run, METRICS)


def read_journal(run: Run) -> list[dict]:
    """The rows of journal.jsonl, oldest first. Every caller gets the same list: do not change it."""
    return read_rows(run, JOURNAL)


def read_samples(run: Run) -> list[dict]:
    """The rows of samples.jsonl, oldest first. Every caller gets the same list: do not change it."""
    return read_rows(run, SAMPLES)


def read_rows(run: Run, file: str) -> list[dict]:
    """The rows of one of a run's .jsonl files. Every caller gets the same list: do not change it."""
    return _parse(run.path / file, version_of(run.path / file))


@lru_cache(maxsize=48)
def _parse(path: Path, _version: Version) -> list[dict]:
    return read_lines(path)


def evaluation_files(runs: Path) -> dict[str, Version]:
    """The version of each report of `evaluate` and `best-of`, by the name of its folder: folders beside the runs that
    are none."""
    files = [folder / REPORT for folder in sorted(runs.glob("*/")) if not (folder / "config.yaml").exists()]
    return {file.parent.name: version_of(file) for file in files if file.is_file()}


def evaluation_reports(runs: Path) -> dict[str, dict]:
    """The reports of `evaluation_files`; a file that holds none is left out."""
    reports = {name: _parse_report(runs / name / REPORT, version) for name, version in evaluation_files(runs).items()}
    return {name: report for name, report in reports.items() if report}


@lru_cache(maxsize=48)
def _parse_report(path: Path, _version: Version) -> dict:
    """The report in a file; {} for what is none."""
    report = read_json_or_none(path)
    return report if isinstance(report, dict) else {}


# -- the peak of the like of a run -------------------------------------------------------------------------------------

def find_kl_limit(run: Run, config: dict) -> kl_limits.KLLimit | None:
    """The KL at which the like of a run peaked, by the studies beside it; None where none says so."""
    reports = evaluation_reports(run.path.parent)
    studies = {name: report for name, report in reports.items() if report.get("study")}
    return kl_limits.find_kl_limit(config, labels_learned(run, config), studies) if studies else None


def labels_learned(run: Run, config: dict) -> int | None:
    """How many labels the reward of a run has learned from: votes of the live loop, pairs of a reward run; None where
    nothing says so."""
    if config.get("stage") == "teach":
        votes = [row[VOTES_LEARNED] for row in read_metrics(run)[-1:] if VOTES_LEARNED in row]
        return int(votes[0]) if votes and math.isfinite(votes[0]) else config.get("votes")
    reward = Path(expand_user(str(config.get("reward") or "")))
    for folder in (reward, *list(reward.parents)[:3]):  # a run, or a role in one of its checkpoints
        pairs = _parse_report(folder / REPORT, version_of(folder / REPORT)).get("pairs")
        if isinstance(pairs, int):
            return pairs
    return None
