"""The checkpoints that are measured, and from which other one each of them started.

What names and folders mean is found out before a model is loaded. Loading then finds those that are equal.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.lineage import run_of
from rlhf_engine.runs.resolve import BUNDLED_ADAPTER, resolve_adapter
from rlhf_engine.stages import starting_adapter

if TYPE_CHECKING:
    from rlhf_engine.model.backbone import Backbone

BASE = "base"
"""The name of the bare base in a report."""


@dataclass(frozen=True)
class Source:
    """An adapter before it is loaded: its name in a report, and its folder. The bare base has none."""

    name: str
    folder: Path | None = None


@dataclass
class Checkpoint:
    """An adapter that is loaded as a role of the backbone (None: the bare base), and what it is compared with."""

    name: str
    role: str | None
    start: "Checkpoint | None" = None
    """Where it started; None for the bare base."""
    also: list[str] = field(default_factory=list)
    """Names of adapters that are equal to it."""


# -- what names mean ---------------------------------------------------------------------------------------------------

def plan(adapters: Sequence[str], against: str | None, model: str) -> tuple[list[tuple[Source, Source]], list[str]]:
    """(each adapter and where it started, remarks for the user).

    Args:
        adapters: `none`, `bundled`, run folders or PEFT folders.
        against: what all of them are compared with, likewise; None is the start of each.
        model: the base.

    Raises UserError for what is no adapter, and for a start that cannot be found.
    """
    pairs, notes = [], []
    fixed = _source(against, model) if against is not None else None
    for adapter in adapters:
        source = _source(adapter, model)
        if fixed is not None:
            pairs.append((source, fixed))
            if source == fixed and source.folder:
                notes.append(f"{adapter} is what --against names, so it is compared with the base")
        else:
            start, note = find_start(adapter, source, model)
            pairs.append((source, start))
            notes += [note] if note else []
    return pairs, notes


def _source(adapter: str, model: str) -> Source:
    folder = resolve_adapter(adapter, model)
    return Source(adapter, folder) if folder else Source(BASE)


def find_start(adapter: str, source: Source, model: str) -> tuple[Source, str]:
    """(where an adapter started, a remark or ""): the reference of its run, or the adapter that its settings name.

    Of an adapter that belongs to no run it is not known, and the base stands in for it. Raises UserError where the
    adapter that the settings name is gone.
    """
    folder = source.folder
    if folder is None:
        return source, ""
    place = folder.resolve()
    if place.parent == BUNDLED_ADAPTER.parent.resolve():  # those of the gallery started from the SFT adapter
        is_first = place.name == BUNDLED_ADAPTER.name
        return (Source(BASE) if is_first else Source("bundled", BUNDLED_ADAPTER)), ""
    if folder.name == "policy" and (folder.parent / "reference").is_dir():
        return Source(f"start of {adapter}", folder.parent / "reference"), ""
    run = run_of(adapter)
    if run is None or (run.path / "checkpoints").resolve() not in place.parents:
        return Source(BASE), (f"{adapter} belongs to no run, so where it started is not known: it is compared with the "
                              "base; name another start with --against")
    settings = run.config()
    base = str(settings.get("model") or model)
    start = starting_adapter(settings) or "none"
    try:
        return _source(start, base), ""
    except UserError as error:
        raise UserError(f"{adapter}: the adapter that it started from cannot be found ({error}); name it with "
                        "--against") from None


# -- loading -----------------------------------------------------------------------------------------------------------

def load_checkpoints(backbone: "Backbone", pairs: Sequence[tuple[Source, Source]]) -> list[Checkpoint]:
    """The base, each start and each adapter, every one of them once, as roles of the backbone.

    Adapters with the same weights and scales are one checkpoint. Raises UserError for one that does not fit the base.
    """
    base = Checkpoint(BASE, None)
    checkpoints: list[Checkpoint] = [base]
    by_folder: dict[Path, Checkpoint] = {}
    by_digest: dict[str, Checkpoint] = {}

    def load(source: Source) -> Checkpoint:
        if source.folder is None:
            return base
        place = source.folder.resolve()
        known = by_folder.get(place)
        if known is None:
            role = f"checkpoint_{len(by_digest)}"
            backbone.load_role(role, source.folder, head=False)
            digest = adapter_digest(backbone, role)
            known = by_digest.get(digest)
            if known is None:
                taken = any(each.name == source.name for each in checkpoints)  # by a folder that is called "base"
                name = f"{source.name} ({source.folder})" if taken else source.name
                known = by_digest[digest] = Checkpoint(name, role, base)
                checkpoints.append(known)
            else:
                backbone.drop_role(role)
            by_folder[place] = known
        if source.name != known.name and source.name not in known.also:
            known.also.append(source.name)
        return known

    for _, start in pairs:
        load(start)
    for source, start in pairs:
        checkpoint, origin = load(source), load(start)
        if checkpoint is not base and checkpoint is not origin and checkpoint.start is base:
            checkpoint.start = origin
    return checkpoints


def adapter_digest(backbone: "Backbone", role: str) -> str:
    """A hash of what a role's adapter computes: the layers and scales of its parts, and their numbers in fp32."""
    from rlhf_engine.model.lora.layers import lora_layers
    digest = hashlib.sha256()
    for name, layer in sorted(lora_layers(backbone.base).items()):
        if role in layer.scaling:
            digest.update(f"{name} {layer.scaling[role]!r} {role in layer.lora_variant}\n".encode())
    for name, parameter in sorted(backbone.named_parameters(role).items()):
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
