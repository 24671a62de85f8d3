"""What a run was made from: fingerprints of its base, its data and the files it depends on, kept in `inputs.json`.

A resumed run compares them. Each is of the content, so a file or a model may be moved or renamed meanwhile; another one
under the old name is refused. A run of an earlier version has no `inputs.json`: then only its base can be compared,
with what its checkpoint says.
"""

import gzip
import hashlib
import json
import os
import re
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_engine.config import LENGTH_FIELDS, RunConfig, flag
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.files import json_text, read_json_or_none, write_json
from rlhf_engine.runs import smollm2
from rlhf_engine.runs.adapter_folder import BASE_FILE, HEAD_FILE, WEIGHTS_FILE
from rlhf_engine.runs.folder import INPUTS_FILE, Run
from rlhf_engine.runs.resolve import fingerprint, resolve_adapter, resolve_model
from rlhf_engine.yaml_files import read_yaml

DATA = ("data", "ptx_data")
"""Settings that name data."""
FUNCTIONS = ("reward", "labeler")
"""Settings that may name a file with a function: FILE.py:FUNCTION."""
ADAPTERS = ("adapter", "reward")
"""Settings that may name an adapter, which is copied into the first checkpoint."""
MOVABLE = ("model", *DATA)
"""Settings that a resumed run may give another path, with the same content behind it."""
SETTINGS, CONFIG_FILE = "settings", "config.yaml"
"""The entry about the settings, and the file that holds them. A run is not resumed with edited ones."""
HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
FILE_ENDINGS = (".json", ".jsonl", ".csv", ".parquet", ".gz")
BLOCK = 1 << 20
"""Bytes that are read of a file at a time."""
NOT_RECORDED = ("this run has no fingerprints of its data, as those of earlier versions: whether it is the same as "
                "when the run began has not been checked")


@dataclass(frozen=True)
class Inputs:
    """The inputs of a run as they are now, and what a user should know about them."""

    settings: dict[str, dict[str, str]]
    """Setting -> where it points (`place`), and the fingerprint of what is there (`content`; empty if unknown)."""
    notes: list[str] = field(default_factory=list)

    def write(self, run: Run) -> None:
        """Write `inputs.json` into a run folder."""
        write_json(run.path / INPUTS_FILE, {**self.settings, SETTINGS: settings_entry(run)})


# -- fingerprints ------------------------------------------------------------------------------------------------------

def read_inputs(config: RunConfig, base: str, *, resumed: bool = False, votes_upto: int | None = None) -> Inputs:
    """The fingerprints of what a config names.

    `base` is that of the base. `resumed`: the run goes on from a checkpoint, which holds copies of the adapters that it
    began with. `votes_upto`: the newest event that it reads, where its data is a store of votes.
    """
    settings = {"model": {"place": config.model, "content": base}}
    for name in DATA:
        if source := data_of(config, name):
            upto = votes_upto if name == "data" else None
            settings[name] = {"place": source, "content": data_fingerprint(source, upto)}
    for name in FUNCTIONS:
        value = getattr(config, name, "")
        if file := function_file(value):
            settings[name] = {"place": value, "content": content_hash(file)}
    for name in ADAPTERS:
        if not resumed and (folder := adapter_folder(config, name)):
            settings[name] = {"place": getattr(config, name), "content": folder_hash(folder)}
    return Inputs(settings)


def data_of(config: RunConfig, name: str) -> str:
    """The data that a setting names, if the config reads it at all."""
    if name == "ptx_data" and not getattr(config, "ptx_coef", 0):
        return ""
    return getattr(config, name, "")


def data_fingerprint(source: str, votes_upto: int | None = None) -> str:
    """The content of a data file, or the revision of a data set of the Hub; empty where neither is known.

    `bundled` data belongs to this installation; its name is enough. Of a store of votes it is that of the events up to
    the number `votes_upto`, or of all.
    """
    if source.startswith("bundled"):
        return source
    path = Path(os.path.expanduser(source))
    if os.path.isfile(path):
        return store_hash(path, votes_upto) or content_hash(path)
    return f"revision {revision}" if (revision := hub_revision(source)) else ""


def content_hash(path: Path) -> str:
    """SHA-256 of a file's content, of a gzipped one of what it holds. It reads about 1 GB/s; to parse takes longer.

    Empty for a file that cannot be read, of which whoever needs it will say more.
    """
    digest = hashlib.sha256()
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opener(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except (OSError, EOFError, zlib.error):
        return ""
    return digest.hexdigest()


def store_hash(path: Path, upto: int | None = None) -> str:
    """SHA-256 of the events in a store of votes, up to the number `upto` or all; empty for any other file."""
    states = [content for number, content in store_states(path) if upto is None or number <= upto]
    return states[-1] if states else ""


def store_head(source: str, content: str = "") -> int | None:
    """The number of the newest event in a store of votes; with `content`, of the newest that made up this content.

    None for any other data, and for a store that never had the content.
    """
    states = list(store_states(Path(os.path.expanduser(source)))) if os.path.isfile(os.path.expanduser(source)) else []
    numbers = [number for number, state in states if not content or state == content]
    return numbers[-1] if numbers else None


def store_states(path: Path) -> Iterator[tuple[int, str]]:
    """(number of the newest event, SHA-256 of all events so far) of a store of votes, as it grew; nothing for any other
    file.

    Not of its bytes: SQLite moves events from its log into the file whenever it likes.
    """
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as store:
        digest = hashlib.sha256()
        for index, (number, *row) in enumerate(store.execute("SELECT seq, id, content FROM events ORDER BY seq")):
            if not index:
                yield 0, digest.hexdigest()
            digest.update(json_text(row).encode())
            yield number, digest.hexdigest()


def folder_hash(folder: Path) -> str:
    """A hash of the weights of an adapter, and of its head."""
    return " ".join(filter(None, (content_hash(folder / name) for name in (WEIGHTS_FILE, HEAD_FILE))))


def function_file(spec: str) -> Path | None:
    """The file of FILE.py:FUNCTION; None for a setting that reads otherwise."""
    file, _, name = spec.rpartition(":")
    return Path(os.path.expanduser(file)) if file.endswith(".py") and name.isidentifier() else None


def adapter_folder(config: RunConfig, name: str) -> Path | None:
    """The PEFT folder that a setting names, or None."""
    value = getattr(config, name, "")
    if value in ("", "auto", "none", "bundled") or function_file(value):
        return None
    try:
        return resolve_adapter(value, config.model, role="reward" if name == "reward" else "policy")
    except UserError:  # whoever loads it says what is wrong
        return None


def hub_revision(source: str) -> str:
    """The newest revision of a data set on the Hub; empty where the Hub cannot be asked."""
    if not HUB_ID.fullmatch(source) or source.lower().endswith(FILE_ENDINGS):
        return ""
    from huggingface_hub import HfApi
    try:
        return HfApi().dataset_info(source, timeout=10).sha or ""
    except Exception:  # of the HTTP client, which changes with the version of huggingface_hub
        return ""


def settings_entry(run: Run) -> dict[str, str]:
    """The entry about a run's config.yaml: the settings there that may never change, as JSON."""
    values = read_yaml(run.path / CONFIG_FILE)
    fixed = {name: value for name, value in values.items() if name not in ("output", *MOVABLE, *LENGTH_FIELDS)}
    return {"place": CONFIG_FILE, "content": json_text(fixed, sort_keys=True)}


# -- comparison --------------------------------------------------------------------------------------------------------

def recorded_inputs(run: Run) -> dict[str, dict[str, str]]:
    """What `inputs.json` says; where there is none, what the checkpoint says about its base."""
    recorded = read_record(run)
    if recorded is not None:
        return recorded
    checkpoint = run.last_checkpoint()
    for file in sorted(checkpoint.glob(f"*/{BASE_FILE}")) if checkpoint else []:
        base = read_json_or_none(file)
        if isinstance(base, dict) and base.get("fingerprint"):
            return {"model": {"content": str(base["fingerprint"])}}
    return {}


def read_record(run: Run) -> dict[str, dict[str, str]] | None:
    """The content of `inputs.json`; None if it is missing or broken."""
    recorded = read_json_or_none(run.path / INPUTS_FILE)
    if not isinstance(recorded, dict):
        return None
    for entry in recorded.values():
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("place", "content")):
            return None
    return recorded


def where_inputs_are(run: Run, began_with: dict, given: dict) -> dict[str, str]:
    """The settings that point elsewhere than when the run began: as `given`, or as at the last time it was resumed.

    Only what has a recorded fingerprint may move; what ships with the project ("bundled") never does.
    """
    recorded = recorded_inputs(run)
    places = {}
    for name in MOVABLE:
        began, entry = began_with.get(name), recorded.get(name, {})
        place = given.get(name) or entry.get("place") or began
        if entry.get("content") and place != began and "bundled" not in (began, place):
            places[name] = str(place)
    return places


def recorded_head(run: Run, config: RunConfig) -> int | None:
    """The number of the newest event that a run read from a store of votes as it began; None for any other data."""
    content = recorded_inputs(run).get("data", {}).get("content", "")
    return store_head(config.data, content) if content else None


def check_inputs(run: Run, config: RunConfig, *, resumed: bool, votes_upto: int | None = None) -> Inputs:
    """The inputs of a run that is to go on. Raises UserError where they are not those that it began with, or are gone.

    A file with a function that made the run fail may have been corrected since, and a store of votes may have grown;
    that is noted. `votes_upto`: the newest event in it that the run reads (`recorded_head`).
    """
    recorded, base = recorded_inputs(run), fingerprint(resolve_model(config.model))
    now = read_inputs(config, base, resumed=resumed, votes_upto=votes_upto)
    failed_by_input = run.status().get("advice_kind") == "input"
    notes = []
    if votes_upto is not None and store_head(config.data) != votes_upto:
        notes.append(f"{config.data} has grown since this run began; it goes on with the votes of then")
    for name, entry in now.settings.items():
        before, content = recorded.get(name, {}).get("content"), entry["content"]
        if not before or not content:
            continue
        if before != content and failed_by_input and function_file(entry["place"]):
            notes.append(f"{entry['place']} has changed since this run began; it goes on with the new one")
        elif before != content:
            raise changed_input(run, name, entry, recorded[name])
    if read_record(run) is None:
        notes.append(NOT_RECORDED)
    return Inputs(now.settings | kept_entries(recorded, now.settings), notes)


def check_settings(run: Run) -> None:
    """Raises UserError, with the names, for settings in config.yaml that are not those of the start."""
    recorded = recorded_inputs(run).get(SETTINGS, {}).get("content", "")
    content = settings_entry(run)["content"]
    if not recorded or content == recorded:
        return
    before, now = json.loads(recorded), json.loads(content)
    changed = [f"{name} was {short_repr(before.get(name))} and is {short_repr(now.get(name))}"
               for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    raise UserError(f"{run.path} cannot be resumed: its {CONFIG_FILE} has been edited since it began "
                    f"({'; '.join(changed)}); put that back, or start a new run with these settings")


def kept_entries(recorded: dict[str, dict[str, str]], now: Iterable[str]) -> dict[str, dict[str, str]]:
    """The recorded entries of settings that are not read again."""
    return {name: entry for name, entry in recorded.items() if name not in now}


def changed_input(run: Run, name: str, now: dict[str, str], before: dict[str, str]) -> UserError:
    """The error for an input whose content is not that with which the run began."""
    place = now["place"]
    if name == "model":
        what = (f"{flag(name)} {place} is another base than the one that it was trained on (fingerprint "
                f"{now['content'][:12]}, not {before['content'][:12]}"
                + (f": {smollm2.TWO_KINDS})" if place == smollm2.NAME else ")"))
    elif now["content"].startswith("revision"):
        what = f"{flag(name)} {place} has another revision on the Hub than when it began"
    elif before.get("place") in (None, place):
        what = f"{flag(name)} {place} has another content than when it began"
    else:
        what = f"{flag(name)} {place} has another content than {before['place']}, with which it began"
    moved = f", name where it is now with {flag(name)}" if name in MOVABLE else ""
    return UserError(f"{run.path} cannot be resumed: {what}; put the old one back{moved}, or start a new run")
