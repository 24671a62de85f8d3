"""What the page may see and name: the runs, uploads and models inside one folder, and the adapters that ship with the project.

A name from a page or an API call is looked up here and nowhere else; it can only mean something inside the workspace.
"""

import os
import re
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from playground import text
from playground.server.access import Access
from rlhf_engine import config as configs
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import ALIVE, Run
from rlhf_engine.runs.journal import effective_settings, without_rewound
from rlhf_engine.runs.resolve import ASSETS
from rlhf_engine.stages import find_stage, make_config

NAME = re.compile(r"\w[\w.+-]{0,99}", re.ASCII)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DATA_ENDINGS = (".json", ".jsonl", ".csv", ".parquet", ".gz")
GALLERY = ASSETS / "adapters"


@dataclass(frozen=True)
class RunSummary:
    """One line of the run list."""

    name: str
    stage: str
    model: str
    state: str
    step: int
    total: int
    time: float
    checkpoints: tuple[str, ...]
    labeler: str = ""
    """Who votes in it, of a `teach` run."""

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


class Workspace:
    """`access` says in whose name a name is looked up; without one everybody is the owner."""

    def __init__(self, home: str | Path, access: Access | None = None):
        self.home, self.access = Path(home).resolve(), access or Access()
        self.runs = self.home / "runs"
        self.uploads = self.home / "uploads"
        self.models = self.home / "models"
        self._store: Store | None = None
        self._store_file = 0

    @property
    def store(self) -> Store:
        """The feedback store. Raises UserError.

        It is opened again when another file has taken its place, so that a full disk or a moved file can be mended
        while the page is up.
        """
        path = self.home / "feedback.sqlite"
        file = path.stat().st_ino if path.exists() else 0
        if self._store is None or file != self._store_file:
            self._store = Store(path)
            self._store_file = path.stat().st_ino
        return self._store

    # -- runs --------------------------------------------------------------------------------------------------------

    def entries(self) -> list[RunSummary]:
        """All runs whose names the page can use: live ones first, then the newest."""
        found = []
        for folder in self.runs.glob("*/") if self.runs.is_dir() else []:
            if not NAME.fullmatch(folder.name):
                continue
            try:
                config, status = config_of(folder), Run(folder).status()
                find_stage(config["stage"])
                found.append(RunSummary(folder.name, config["stage"], config["model"], status["state"], status["step"],
                                   status["total_steps"], status["time"], tuple(p.name for p in Run(folder).checkpoints()),
                                   config.get("labeler", "")))
            except (UserError, OSError, KeyError, ValueError):
                continue  # no run folder, or one that is being removed
        return sorted(found, key=lambda e: (not e.alive, -e.time))

    def live(self) -> str:
        """Name of the run that is going on, or nothing."""
        return next((e.name for e in self.entries() if e.alive), "")

    def run(self, name: str) -> Run:
        """A run by its name. Raises UserError for anything that is not a run inside the workspace."""
        name = Path(name).name if name and Path(name).parent == self.runs else name
        if not name or not NAME.fullmatch(name) or not (self.runs / name / "config.yaml").is_file():
            raise UserError(text.NO_SUCH_RUN.format(name=name))
        return Run(self.runs / name)

    def chosen(self, name: str) -> str:
        """`name`, or for an empty one the live run, or the newest."""
        return name or next((e.name for e in self.entries()), "")

    def config(self, name: str) -> dict:
        return dict(config_of(self.run(name).path))

    def effective_settings(self, name: str) -> dict:
        """The settings of a run as they are by now."""
        folder = self.run(name).path
        journal = (folder / "journal.jsonl").stat() if (folder / "journal.jsonl").exists() else None
        return dict(_current(folder, (folder / "config.yaml").stat().st_mtime_ns, journal and (journal.st_mtime_ns, journal.st_size)))

    def checkpoints(self, name: str) -> list[dict]:
        return [{"name": f"{name}@{folder.name}", "step": int(folder.name.removeprefix("step-")),
                 "roles": sorted(p.name for p in folder.iterdir() if p.is_dir())} for folder in self.run(name).checkpoints()]

    # -- what a form offers ------------------------------------------------------------------------------------------

    def model_choices(self) -> list[str]:
        """Base models: the bundled one, folders under models/, and those that runs stand on."""
        local = sorted(f"models/{p.parent.name}" for p in self.models.glob("*/config.json")) if self.access.owner() else []
        return list(dict.fromkeys(["bundled", *local, *(self.name_of(e.model) for e in self.entries())]))

    def data_choices(self) -> list[str]:
        files = sorted(p for p in self.uploads.glob("*") if p.is_file()) if self.uploads.is_dir() and self.access.owner() else []
        return ["bundled", *(f"uploads/{p.name}" for p in files)]

    def reward_choices(self) -> list[tuple[str, str]]:
        return [(text.ON_MODEL.format(name=e.name, model=self.name_of(e.model)), e.name) for e in self.entries()
                if find_stage(e.stage).makes == "reward" and e.state == "done" and e.checkpoints]

    def adapter_choices(self) -> list[tuple[str, str]]:
        """Where training may start from."""
        runs = [(text.RUN_ADAPTER.format(name=e.name), e.name) for e in self.entries() if find_stage(e.stage).makes == "policy" and e.checkpoints]
        return [(text.AUTO, "auto"), (text.NO_ADAPTER, "none"), (text.SFT_BUNDLED, "bundled"), *gallery(), *runs]

    def chat_choices(self, model: str) -> list[tuple[str, str]]:
        """Who may answer in the chat, on one base model."""
        shipped = [(text.SFT_BUNDLED, "bundled"), *gallery()] if model == "bundled" else []
        runs = []
        for entry in self.entries():
            if find_stage(entry.stage).makes != "policy" or self.name_of(entry.model) != model or not (entry.alive or entry.checkpoints):
                continue
            runs.append((text.RUN_LIVE.format(name=entry.name) if entry.alive else text.RUN_NEWEST.format(name=entry.name), entry.name))
            runs += [(text.RUN_STEP.format(name=entry.name, step=int(c.removeprefix("step-"))), f"{entry.name}@{c}")
                     for c in reversed(entry.checkpoints)]
        return [(text.NO_ADAPTER, "none"), *shipped, *runs]

    def upload(self, file: str | Path) -> str:
        """Copy an owner's file into the workspace; returns its name there."""
        self.access.owners_only()
        name = re.sub(r"[^\w.-]+", "_", Path(file).name).lstrip("._") or "upload.jsonl"
        if not name.endswith(DATA_ENDINGS):
            raise UserError(text.NOT_DATA.format(name=name, endings=", ".join(DATA_ENDINGS)))
        self.uploads.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, self.uploads / name)
        return f"uploads/{name}"

    # -- from names to what the worker is told, and back ---------------------------------------------------------------

    def settings(self, stage: str, values: dict) -> dict:
        """Settings from a form or an API call, checked, with workspace names made into paths. Raises UserError."""
        values = configs.current_names({name: value for name, value in values.items() if name != "stage"})
        make_config(stage, values)
        for name, find in {"model": self._model, "adapter": self._adapter, "data": self._data, "ptx_data": self._data,
                           "reward": self._reward, "output": self._output}.items():
            if values.get(name):
                values[name] = find(str(values[name]))
        if "reward" in find_stage(stage).required and not values.get("reward"):
            raise UserError(text.NO_REWARD)
        return values

    def model(self, name: str) -> str:
        """A base model as the worker takes it."""
        return self._model(name)

    def seen_model(self, name: str) -> str:
        """The same for who only asks what it is, which of a Hub id anybody may."""
        return name if HUB_ID.fullmatch(name) and not self._is_there(name) else self._model(name)

    def adapter(self, name: str) -> tuple[str, str]:
        """(model, adapter) as the command line takes them, of a choice of the chat. Raises UserError."""
        known = name in ("bundled", *(shipped for _, shipped in gallery()))
        return "bundled" if known else self.config(name.partition("@")[0])["model"], self._adapter(name)

    def data(self, name: str) -> str:
        """Data as the worker takes it: a path in the workspace, or a Hub id. Raises UserError."""
        return self._data(name)

    def name_of(self, value: str) -> str:
        """The short name of a path inside the workspace; anything else stays."""
        path = Path(value)
        if not path.is_absolute() or not path.is_relative_to(self.home):
            return value
        return path.name if path.parent == self.runs else str(path.relative_to(self.home))

    def chat_adapter(self, name: str) -> str:
        """An adapter as the worker takes it. Raises UserError for all but `none`, `bundled`, the gallery and runs here."""
        if name in ("none", "bundled") or name in (shipped for _, shipped in gallery()):
            return name
        base, at, step = str(name).partition("@")
        run = self.run(base)
        if at and step not in (p.name for p in run.checkpoints()):
            raise UserError(text.NO_SUCH_CHECKPOINT.format(name=base, step=step))
        return f"{run.path}{at}{step}"

    def _inside(self, value: str, what: str) -> str:
        path = Path(os.path.normpath(self.home / value))
        if not path.is_relative_to(self.home) or not os.path.exists(path) or not path.resolve().is_relative_to(self.home):
            raise UserError(text.OUTSIDE.format(what=what, value=value, home=self.home))
        return str(path)

    def _owners(self, value: str) -> None:
        if not self.access.owner():
            raise UserError(text.VISITORS_FILES.format(value=value))

    def _model(self, value: str) -> str:
        if value != "bundled" and value not in (self.name_of(entry.model) for entry in self.entries()):
            self._owners(value)
        if value == "bundled" or (HUB_ID.fullmatch(value) and not self._is_there(value)):
            return value
        return self._inside(value, "model")

    def _data(self, value: str) -> str:
        hub = HUB_ID.fullmatch(value) and not value.endswith(DATA_ENDINGS)
        if value not in ("bundled", "bundled-heldout"):
            self._owners(value)
        if value in ("bundled", "bundled-heldout") or (hub and not self._is_there(value)):
            return value
        return self._inside(value, "data")

    def _is_there(self, value: str) -> bool:
        """Unlike Path's, `os.path.exists` takes a text that is too long for a path."""
        return os.path.exists(value) or os.path.exists(self.home / value)

    def _adapter(self, value: str) -> str:
        if value in ("auto", "none", "bundled"):
            return value
        if value in (shipped for _, shipped in gallery()):
            return str(GALLERY / value)
        name, _, step = value.partition("@")
        run = self.run(name)
        if not step:
            return str(run.path)
        if step not in (p.name for p in run.checkpoints()):
            raise UserError(text.NO_SUCH_CHECKPOINT.format(name=name, step=step))
        return str(run.path / "checkpoints" / step)

    def _reward(self, value: str) -> str:
        return str(self.run(value).path)

    def _output(self, value: str) -> str:
        if Path(value).parent == self.runs:
            value = Path(value).name
        if not NAME.fullmatch(value):
            raise UserError(text.BAD_NAME.format(name=value))
        return str(self.runs / value)


def gallery() -> list[tuple[str, str]]:
    """Adapters that ship beside the SFT adapter: readable name, folder name."""
    return [(text.FROM_GALLERY.format(name=p.parent.name.replace("-", " ").replace("_", " ").capitalize()), p.parent.name)
            for p in sorted(GALLERY.glob("*/adapter_config.json")) if p.parent.name != "sft"]


def config_of(folder: Path) -> dict:
    """config.yaml of a run, parsed once per version of the file."""
    return _read(folder / "config.yaml", (folder / "config.yaml").stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _read(path: Path, _version: int) -> dict:
    return configs.current_names(configs.read_yaml(path))


@lru_cache(maxsize=512)
def _current(folder: Path, _config: int, _journal: tuple[int, int] | None) -> dict:
    return effective_settings(Run(folder).config(), without_rewound(Run(folder).journal()))


KEPT = 3600.0
"""Seconds after which a file that was made for a download is removed, when the next one is made."""


def fresh(folder: Path, kind: str) -> Path:
    """A new folder for a download inside `folder`, of an unguessable name; old ones of its kind are removed. Raises UserError."""
    place = folder / f"{kind}-{secrets.token_hex(16)}"
    for old in folder.glob(f"{kind}-*"):
        with suppress(OSError):  # another request may have removed it
            if time.time() - old.stat().st_mtime > KEPT:
                shutil.rmtree(old)
    try:
        place.mkdir(parents=True)
    except OSError as error:
        raise UserError(text.NO_EXPORT.format(error=error.strerror)) from None
    return place
