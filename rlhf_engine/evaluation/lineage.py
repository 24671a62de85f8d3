"""What a policy was trained on: the rewards and labelers of its run, and of the runs that it started from.

A judge that is the reward that a policy was trained on sees what training made it see, over-optimisation included. So
it is recognised by the run's config.yaml and the fingerprints in inputs.json, also where a folder has moved. No
function here needs torch.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rlhf_engine.errors import UserError
from rlhf_engine.feedback.labelers import REPLAY
from rlhf_engine.files import expand_user
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.inputs import content_hash, folder_hash, function_file, recorded_inputs
from rlhf_engine.runs.resolve import resolve_adapter

MOST_RUNS = 50
"""Runs that are followed, each started from the next."""


class Source(NamedTuple):
    """Something that a policy learned from."""

    kind: str
    """`reward`: what scored its responses. `labeler`: what voted, from which a reward was learned."""
    spec: str
    """As the config of the run spells it; of a reward that a run learned itself, the run."""
    content: str
    """Its fingerprint when the run began; empty if none was recorded."""
    run: Path


def training_sources(adapter: str) -> list[Source]:
    """What the policy ADAPTER was trained on, the newest first; nothing for a PEFT folder outside of a run."""
    sources, seen = [], set()
    run = run_of(adapter)
    while run and run.path.resolve() not in seen and len(seen) < MOST_RUNS:
        seen.add(run.path.resolve())
        try:
            config, recorded = run.config(), recorded_inputs(run)
        except (UserError, OSError):
            break
        sources.append(Source("reward", str(run.path), "", run.path))
        for kind in ("reward", "labeler"):
            if spec := str(config.get(kind) or ""):
                sources.append(Source(kind, spec, recorded.get(kind, {}).get("content", ""), run.path))
        sources += list(replayed(str(config.get("labeler") or ""), run.path))
        run = run_of(str(config.get("adapter") or ""))
    return sources


def replayed(labeler: str, run: Path) -> Iterator[Source]:
    """The labeler of the run whose votes a run was given once more."""
    replay = run_of(labeler.removeprefix(REPLAY)) if labeler.startswith(REPLAY) else None
    try:
        spec = str(replay.config().get("labeler") or "") if replay else ""
    except (UserError, OSError):
        return
    if spec:
        yield Source("labeler", spec, "", run)


def trainer_of(judge: str, adapter: str) -> Source | None:
    """What ADAPTER was trained on, if that is this judge; else None. A reward counts before a labeler."""
    matches = [source for source in training_sources(adapter) if is_same(judge, source)]
    return min(matches, key=lambda source: source.kind == "labeler", default=None)


def is_same(judge: str, source: Source) -> bool:
    """Whether a judge is what a policy learned from: the same name, function, folder or weights."""
    if judge == source.spec:
        return True
    ours, theirs = function_file(judge), function_file(source.spec)
    if ours and theirs:
        same_function = judge.rpartition(":")[2] == source.spec.rpartition(":")[2]
        return same_function and (same_place(ours, theirs) or bool(source.content)
                                  and content_hash(ours) == source.content)
    if ours or theirs:
        return False
    here, there = run_of(judge), run_of(source.spec)
    if here and there and same_place(here.path, there.path):
        return True
    folder = reward_folder(judge)
    if folder is None:
        return False
    content = source.content or folder_content(reward_folder(source.spec))
    return bool(content) and folder_content(folder) == content


def same_place(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same place."""
    return os.path.realpath(one) == os.path.realpath(other)


def reward_folder(spec: str) -> Path | None:
    """The PEFT folder of a reward; None for what is none."""
    try:
        return resolve_adapter(spec, role="reward") if Path(expand_user(spec)).is_dir() else None
    except (UserError, OSError):
        return None


def folder_content(folder: Path | None) -> str:
    """The fingerprint of a PEFT folder; empty where there is none."""
    return folder_hash(folder) if folder else ""


def run_of(adapter: str) -> Run | None:
    """The run that ADAPTER lies in: a run folder, its checkpoint, or a role of that; None for anything else."""
    if adapter in ("", "none", "auto", "bundled"):
        return None
    folder = Path(expand_user(adapter))
    for place in (folder, *list(folder.absolute().parents)[:3]):
        if Run(place).exists():
            return Run(place)
    return None


def trainer_note(judge: str, source: Source) -> str:
    """A sentence about a judge that is the source of what a policy learned."""
    if source.kind == "labeler":
        return (f"{judge} gave the votes that {source.run} learned from: a high score by it says that the policy "
                "learned them, and not that others would agree; add another --judge")
    return (f"{judge} is the reward that {source.run} was trained on, so a high score by it says little: a policy can "
            "learn to please its reward alone; take another --judge")
