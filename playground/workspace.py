"""What the page may see and name: the runs, uploads and models in one folder, and the adapters that ship with the
project.

A name from a page or an API call is looked up here and nowhere else. It can only mean something inside the workspace.
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
from rlhf_engine.feedback.exchange import export
from rlhf_engine.feedback.scoring_functions import built_in
from rlhf_engine.feedback.store import Store
from rlhf_engine.files import ASSETS, atomic_file, expand_user
from rlhf_engine.runs import smollm2
from rlhf_engine.runs.folder import ALIVE, Run, step_of
from rlhf_engine.runs.gguf_files import ENDING
from rlhf_engine.runs.journal import effective_settings, without_rewound
from rlhf_engine.stages import find_stage, make_config
from rlhf_engine.yaml_files import read_yaml

NAME = re.compile(r"\w[\w.+-]{0,99}", re.ASCII)
"""The name of a run."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
DATA_ENDINGS = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".gz")
GALLERY = ASSETS / "adapters"
SECONDS_KEPT = 3600.0
"""Seconds after which a file that was made for a download may be removed."""


@dataclass(frozen=True)
class RunSummary:
    """One line of the list of runs."""

    name: str
    stage: str
    model: str
    state: str
    step: int
    total: int
    """The step with which the run ends; 0 before it is known."""
    time: float
    """When something last happened in it."""
    checkpoints: tuple[str, ...]
    """The names of the complete checkpoints, the oldest first."""
    labeler: str = ""
    """Who votes in a `teach` run."""

    @property
    def alive(self) -> bool:
        """Whether a process is at work on it."""
        return self.state in ALIVE


STORE_FILE = "feedback.sqlite"
"""The file of the feedback store. Among the data of a form it stands for the votes in it."""


class Workspace:
    """The folder of a page. `access` says for whom a name is looked up; without one, everybody is the owner."""

    def __init__(self, home: str | Path, access: Access | None = None):
        self.home, self.access = Path(os.path.realpath(expand_user(str(home)))), access or Access()
        self.runs = Path(os.path.realpath(self.home / "runs"))  # a link to a larger disk, perhaps
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
        path = self.home / STORE_FILE
        file = path.stat().st_ino if path.exists() else 0
        if self._store is None or file != self._store_file:
            self._store = Store(path)
            self._store_file = path.stat().st_ino
        return self._store

    # -- runs ----------------------------------------------------------------------------------------------------------

    def entries(self) -> list[RunSummary]:
        """All runs whose names the page can use: live ones first, then the newest."""
        summaries = []
        for folder in self.runs.glob("*/") if self.runs.is_dir() else []:
            if NAME.fullmatch(folder.name):
                with suppress(UserError, OSError, KeyError, ValueError):  # no run folder, or one that is being removed
                    summaries.append(summary_of(folder))
        return sorted(summaries, key=lambda entry: (not entry.alive, -entry.time))

    def live(self) -> str:
        """The name of the run that is going on; empty if there is none."""
        return next((entry.name for entry in self.entries() if entry.alive), "")

    def run(self, name: str) -> Run:
        """The run of a name. Raises UserError for anything that is not a run inside the workspace."""
        name = Path(name).name if name and Path(name).parent == self.runs else name
        if not name or not NAME.fullmatch(name) or not (self.runs / name / "config.yaml").is_file():
            raise UserError(text.NO_SUCH_RUN.format(name=name))
        return Run(self.runs / name)

    def chosen(self, name: str) -> str:
        """`name`; if it is empty, the name of the live run, or of the newest."""
        return name or next((entry.name for entry in self.entries()), "")

    def config(self, name: str) -> dict:
        """The settings with which a run began, and its stage."""
        return dict(config_of(self.run(name).path))

    def effective_settings(self, name: str) -> dict:
        """The settings of a run that are in force by now."""
        folder = self.run(name).path
        journal = (folder / "journal.jsonl").stat() if (folder / "journal.jsonl").exists() else None
        journal_version = (journal.st_mtime_ns, journal.st_size) if journal else None
        return dict(_effective_settings(folder, (folder / "config.yaml").stat().st_mtime_ns, journal_version))

    def checkpoints(self, name: str) -> list[dict]:
        """The checkpoints of a run, the oldest first: `name` as a chat takes it, `step`, and the `roles` in it."""
        return [{"name": f"{name}@{folder.name}", "step": step_of(folder),
                 "roles": sorted(role.name for role in folder.iterdir() if role.is_dir())}
                for folder in self.run(name).checkpoints()]

    # -- what a form offers --------------------------------------------------------------------------------------------

    def model_choices(self) -> list[str]:
        """Base models: the bundled one, the folders under models/, and those that runs stand on."""
        patterns = ("*/config.json", "*.gguf", "*/*.gguf") if self.access.owner() else ()
        files = [file for pattern in patterns for file in self.models.glob(pattern)]
        places = [file.parent if file.name == "config.json" else file for file in files]
        local = sorted(f"models/{place.relative_to(self.models)}" for place in places)
        used = [self.name_of(entry.model) for entry in self.entries()]
        return list(dict.fromkeys(["bundled", *local, *used]))

    def data_choices(self) -> list[str]:
        """Data: the bundled one, and for an owner the votes of the workspace, and uploads."""
        if not self.access.owner():
            return ["bundled"]
        files = sorted(f"uploads/{path.name}" for path in self.uploads.glob("[!.]*") if path.is_file())
        votes = [STORE_FILE] if (self.home / STORE_FILE).is_file() else []
        return ["bundled", *votes, *files]

    def frozen_data(self, source: str) -> str:
        """Data that stays as it is: of the feedback store a copy of its events among the uploads, of all else itself.

        Votes go on coming, and a resumed run refuses data that has changed. Raises UserError.
        """
        if source != str(self.home / STORE_FILE):
            return source
        path = self.uploads / f"votes-{self.store.head()}.jsonl"
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            export(self.store.events(retracted=True), path)
        return str(path)

    def reward_choices(self) -> list[tuple[str, str]]:
        """(readable name, run) of the reward models that were trained here."""
        rewards = [entry for entry in self.entries()
                   if find_stage(entry.stage).makes == "reward" and entry.state == "done" and entry.checkpoints]
        return [(text.ON_MODEL.format(name=entry.name, model=self.name_of(entry.model)), entry.name)
                for entry in rewards]

    def chat_rewards(self, model: str) -> list[str]:
        """The reward runs that can choose the best of several answers of one base model, the newest first."""
        return [entry.name for entry in self.entries() if find_stage(entry.stage).makes == "reward"
                and entry.state == "done" and entry.checkpoints and self.name_of(entry.model) == model]

    def adapter_choices(self) -> list[tuple[str, str]]:
        """(readable name, adapter) of what training may start from."""
        runs = [(text.RUN_ADAPTER.format(name=entry.name), entry.name) for entry in self.entries()
                if find_stage(entry.stage).makes == "policy" and entry.checkpoints]
        return [(text.AUTO, "auto"), (text.NO_ADAPTER, "none"), (text.SFT_BUNDLED, "bundled"), *gallery(), *runs]

    def chat_choices(self, model: str) -> list[tuple[str, str]]:
        """(readable name, adapter) of what may answer in the chat on one base model."""
        choices = [(text.NO_ADAPTER, "none")]
        if model == "bundled":
            choices += [(text.SFT_BUNDLED, "bundled"), *gallery()]
        for entry in self.entries():
            answers = find_stage(entry.stage).makes == "policy" and (entry.alive or entry.checkpoints)
            if not answers or self.name_of(entry.model) != model:
                continue
            newest = text.RUN_LIVE if entry.alive else text.RUN_NEWEST
            choices.append((newest.format(name=entry.name), entry.name))
            for checkpoint in reversed(entry.checkpoints):
                label = text.RUN_STEP.format(name=entry.name, step=step_of(Path(checkpoint)))
                choices.append((label, f"{entry.name}@{checkpoint}"))
        return choices

    def upload(self, file: str | Path) -> str:
        """Copy an owner's file into the workspace; returns its name there. Raises UserError."""
        self.access.owners_only()
        name = re.sub(r"[^\w.-]+", "_", Path(file).name).lstrip("._") or "upload.jsonl"
        if not name.lower().endswith(DATA_ENDINGS):
            raise UserError(text.NOT_DATA.format(name=name, endings=", ".join(DATA_ENDINGS)))
        try:
            self.uploads.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.uploads / name) as temporary:
                shutil.copy(file, temporary)
        except OSError as error:
            raise UserError(text.UPLOAD_FAILED.format(name=name, reason=error.strerror or error)) from None
        return f"uploads/{name}"

    # -- names of the workspace, as the worker takes them --------------------------------------------------------------

    def settings(self, stage: str, values: dict) -> dict:
        """Settings from a form or an API call, checked, with the names of the workspace made into paths. Raises
        UserError.

        This is where what comes from the page is checked. The worker checks it once more, as the last gate.
        """
        given = configs.current_names({name: value for name, value in values.items() if name != "stage"})
        config = make_config(stage, given)
        settings = {name: getattr(config, name) for name in given}
        resolvers = {"model": self.model, "adapter": self._adapter, "data": self.data, "ptx_data": self.data,
                     "reward": self._reward, "output": self._output}
        for name, resolve in resolvers.items():
            if settings.get(name):
                settings[name] = resolve(settings[name])
        if "reward" in find_stage(stage).required and not settings.get("reward"):
            raise UserError(text.NO_REWARD)
        return settings

    def model(self, value: str) -> str:
        """A base model: `bundled`, `smollm2`, a Hub id, or a folder or GGUF file in the workspace. Raises UserError."""
        if value != "bundled" and value not in (self.name_of(entry.model) for entry in self.entries()):
            self._owners(value)
        is_hub_id = HUB_ID.fullmatch(value) and not value.lower().endswith(ENDING) and not self._exists(value)
        if value in ("bundled", smollm2.NAME) or is_hub_id:
            return value
        return self._path_inside(value, "model")

    def seen_model(self, name: str) -> str:
        """A base model of which somebody only asks what it is. Of a Hub id, visitors may ask that too."""
        return name if name == smollm2.NAME or HUB_ID.fullmatch(name) and not self._exists(name) else self.model(name)

    def data(self, value: str) -> str:
        """Data: `bundled`, a Hub id, or a file in the workspace. Raises UserError."""
        if value in ("bundled", "bundled-heldout"):
            return value
        self._owners(value)
        if HUB_ID.fullmatch(value) and not value.lower().endswith(DATA_ENDINGS) and not self._exists(value):
            return value
        return self._path_inside(value, "data")

    def adapter(self, name: str) -> tuple[str, str]:
        """(model, adapter) as the command line takes them, of a choice of the chat. Raises UserError."""
        if name == "bundled" or name in gallery_names():
            return "bundled", self._adapter(name)
        run_name = name.partition("@")[0]
        return self.config(run_name)["model"], self._adapter(name)

    def chat_adapter(self, name: str) -> str:
        """An adapter as the worker's chat takes it: `none`, `bundled`, a name of the gallery, RUN or RUN@step-000050.

        Raises UserError for all but these.
        """
        if name in ("none", "bundled") or name in gallery_names():
            return name
        run, checkpoint = self._run_and_checkpoint(str(name))
        return f"{run.path}@{checkpoint}" if checkpoint else str(run.path)

    def name_of(self, value: str) -> str:
        """The short name of a path inside the workspace; anything else stays as it is."""
        path = Path(value)
        if path.parent == self.runs:
            return path.name
        return str(path.relative_to(self.home)) if path.is_absolute() and path.is_relative_to(self.home) else value

    def _adapter(self, value: str) -> str:
        """An adapter as a setting takes it: a word, or the path of a folder."""
        if value in ("auto", "none", "bundled"):
            return value
        if value in gallery_names():
            return str(GALLERY / value)
        run, checkpoint = self._run_and_checkpoint(value)
        return str(run.path / "checkpoints" / checkpoint) if checkpoint else str(run.path)

    def _run_and_checkpoint(self, value: str) -> tuple[Run, str]:
        """The run that RUN or RUN@step-000050 names, and its checkpoint, if one is named. Raises UserError."""
        name, at, checkpoint = value.partition("@")
        run = self.run(name)
        if at and checkpoint not in [folder.name for folder in run.checkpoints()]:
            raise UserError(text.NO_SUCH_CHECKPOINT.format(name=name, step=checkpoint))
        return run, checkpoint

    def _reward(self, value: str) -> str:
        """The path of a reward run, or a built-in score, unless a run has its name."""
        if built_in(value) and not (self.runs / value).exists():
            return value
        return str(self.run(value).path)

    def _output(self, value: str) -> str:
        if Path(value).parent == self.runs:
            value = Path(value).name
        if not NAME.fullmatch(value):
            raise UserError(text.BAD_NAME.format(name=value))
        return str(self.runs / value)

    def _path_inside(self, value: str, what: str) -> str:
        """The path of something that exists inside the workspace, wherever links lead. Raises UserError."""
        path = Path(os.path.normpath(self.home / value))
        inside = path.is_relative_to(self.home) and os.path.exists(path) and path.resolve().is_relative_to(self.home)
        if not inside:
            raise UserError(text.OUTSIDE.format(what=what, value=value, home=self.home))
        return str(path)

    def _owners(self, value: str) -> None:
        if not self.access.owner():
            raise UserError(text.VISITORS_FILES.format(value=value))

    def _exists(self, value: str) -> bool:
        # Unlike Path's method, os.path.exists takes a text that is too long for a path.
        return os.path.exists(value) or os.path.exists(self.home / value)


def gallery() -> list[tuple[str, str]]:
    """(readable name, folder name) of the adapters that ship beside the SFT adapter."""
    return [(text.FROM_GALLERY.format(name=name.replace("-", " ").replace("_", " ").capitalize()), name)
            for name in gallery_names()]


def gallery_names() -> list[str]:
    """The folder names of the adapters that ship beside the SFT adapter."""
    names = [config.parent.name for config in GALLERY.glob("*/adapter_config.json")]
    return sorted(name for name in names if name != "sft")


def summary_of(folder: Path) -> RunSummary:
    """The line of a run folder in the list of runs. Raises UserError, OSError, KeyError or ValueError if it is none."""
    run, config = Run(folder), config_of(folder)
    find_stage(config["stage"])
    status = run.status()
    checkpoints = tuple(checkpoint.name for checkpoint in run.checkpoints())
    return RunSummary(folder.name, config["stage"], config["model"], status["state"], status["step"],
                      status["total_steps"], status["time"], checkpoints, config.get("labeler", ""))


def config_of(folder: Path) -> dict:
    """config.yaml of a run, parsed once per version of the file."""
    return _read_config(folder / "config.yaml", (folder / "config.yaml").stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _read_config(path: Path, _version: int) -> dict:
    return configs.current_names(read_yaml(path))


@lru_cache(maxsize=512)
def _effective_settings(folder: Path, _config_version: int, _journal_version: tuple[int, int] | None) -> dict:
    return effective_settings(Run(folder).config(), without_rewound(Run(folder).journal()))


def fresh(folder: Path, kind: str) -> Path:
    """A new folder inside `folder` for a download, with a name that nobody can guess. Raises UserError.

    Folders of the same kind that are older than an hour are removed.
    """
    new_folder = folder / f"{kind}-{secrets.token_hex(16)}"
    for old in folder.glob(f"{kind}-*"):
        with suppress(OSError):  # another request may have removed it
            if time.time() - old.stat().st_mtime > SECONDS_KEPT:
                shutil.rmtree(old)
    try:
        new_folder.mkdir(parents=True)
    except OSError as error:
        raise UserError(text.NO_EXPORT.format(error=error.strerror)) from None
    return new_folder
