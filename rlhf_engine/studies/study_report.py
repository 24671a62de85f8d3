"""The report of a study of over-optimisation: report.json from the pieces, and a table of it. No torch."""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_engine.files import write_json
from rlhf_engine.studies.courses import TITLES, describe_curve, ends, peak_kl, study_findings
from rlhf_engine.studies.settings import STUDY, StudySettings, to_dict

REPORT = "report.json"
RL_KINDS = ("rl", "ensemble")


def make_report(settings: StudySettings, pieces: Mapping[Any, dict[str, Any]], wanted: int, state: str,
                base: str) -> dict[str, Any]:
    """The contents of report.json.

    Args:
        settings: of the study.
        pieces: those that are done, by (labels, seed, kind).
        wanted: how many there are to be in all.
        state: running, stopped, failed or done.
        base: fingerprint of the base model.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for (labels, _, kind), row in pieces.items():
        groups[kind, labels].append(row)
    order = sorted(groups, key=lambda key: (list(TITLES).index(key[0]), key[1]))
    curves = [describe_curve(kind, labels, groups[kind, labels], settings.seed) for kind, labels in order]
    for curve in curves:
        curve["peak_kl"] = peak_kl(curve)
    flags, findings = study_findings(curves)
    seconds = sum(row.get("processor_seconds", 0.0) for row in pieces.values())
    return {"study": STUDY, "state": state, "pieces": len(pieces), "pieces_wanted": wanted,
            "processor_seconds": round(seconds, 1), "base": base, **to_dict(settings), "flags": flags,
            "findings": findings, "notes": notes(settings, curves), "curves": curves}


def notes(settings: StudySettings, curves: list[dict[str, Any]]) -> list[str]:
    """What a reader must know of the figures."""
    found = ["gold and proxy are in standard deviations of the start's samples, above their mean; the KL is in nats a "
             "sequence, to the start",
             "the KL of best-of-n is estimated with its ties; kl_bound, log n - (n - 1) / n, is an upper bound on it"]
    if any(curve["peak"] and curve["peak"]["by"] != "law" for curve in curves):
        found.append("a star marks a peak that is where gold was highest, because the law does not describe that curve")
    if settings.seeds == 1:
        found.append("there is one seed, so the intervals are over prompts and say nothing about other proxies and "
                     "runs: --seeds 3 or more does")
    broken = [f"{curve['labels']:,} labels, seed {run['seed']}: {run['ended']}" for curve in curves
              for run in curve["runs"] if "nan" in run.get("ended", "").lower() or ":" in run.get("ended", "")]
    if broken:
        found.append("runs that ended because their numbers failed: " + "; ".join(broken))
    return found


def write_report(folder: Path, report: dict[str, Any]) -> None:
    """Replace report.json in a study's folder."""
    write_json(folder / REPORT, report)


def table(report: dict[str, Any]) -> list[str]:
    """The report as lines of text: a row for each curve, then what follows from all of them."""
    lines = [f"{'':<14} {'labels':>7} {'seeds':>5} {'proxy':>6} {'KL at gold peak (95 %)':>29} {'gold there':>10} "
             f"{'at end':>7} {'proxy':>6} {'KL':>6}  flags"]
    for curve in report["curves"]:
        last = [run["points"][-1] for run in curve["runs"]]

        def mean(name: str, rows: list[dict[str, Any]] = last) -> float:
            return sum(row[name] for row in rows) / len(rows)
        accuracy = f"{curve['proxy_accuracy']:.0%}" if "proxy_accuracy" in curve else ""
        lines.append(f"{TITLES[curve['kind']]:<14} {curve['labels']:>7,} {len(curve['seeds']):>5} {accuracy:>6} "
                     f"{peak_text(curve):>29} {curve['measured_peak']['gold']:>10.2f} {mean('gold'):>7.2f} "
                     f"{mean('proxy'):>6.2f} {mean('kl'):>6.1f}  {', '.join(curve['flags'])}")
    return lines + [""] + report["findings"] + [f"note: {text}" for text in report["notes"]]


def peak_text(curve: dict[str, Any]) -> str:
    """The peak of a curve for the table: the law's, or with a star where gold was highest."""
    if curve["peak"] is None:
        return "none"
    star = "" if curve["peak"]["by"] == "law" else "*"
    return f"{curve['peak']['kl']:.1f}{star} ({ends(curve['peak']).partition(',')[0]})"
