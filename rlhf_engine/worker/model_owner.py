"""The one thread of the worker that owns the model: it loads bases, trains, and answers chats in between."""

import gc
import traceback
from pathlib import Path

import torch

from rlhf_engine import config as configs
from rlhf_engine.build import make_trainer
from rlhf_engine.config import RunConfig, TeachConfig
from rlhf_engine.errors import UserError, first_line
from rlhf_engine.feedback.labelers import REPLAY
from rlhf_engine.feedback.llm_judge import is_judge
from rlhf_engine.feedback.scoring_functions import is_function
from rlhf_engine.loop import drive, reset_peak_memory
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.control import RunControl
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import describe_base, fingerprint, locate, resolve_model, resolve_output
from rlhf_engine.runs.start import RunStart, check_new, check_resume
from rlhf_engine.stages import make_config
from rlhf_engine.teach.recorded_votes import is_replay, recorded_labeler
from rlhf_engine.trainers.failures import failure_hint
from rlhf_engine.trainers.interface import AnyTrainer
from rlhf_engine.worker.chats import Chats
from rlhf_engine.worker.protocol import as_user_error
from rlhf_engine.worker.reports import Reports
from rlhf_engine.worker.requests import LiveRun, LoadRequest, StartRequest
from rlhf_engine.worker.server import Server


class ModelOwner:
    """Owns the backbone and the trainer. `serve` runs until the server is closing."""

    def __init__(self, server: Server):
        self.server = server
        self.backbone: Backbone | None = None
        self.loaded_as = ("auto", "auto")
        """The dtype and the device that were asked for when the base was loaded."""
        self.trainer: AnyTrainer | None = None
        self.chats = Chats(self)
        self.reports = Reports(self)

    def serve(self) -> None:
        """Do what the server has queued, one thing after the other. Runs come before chats, and chats before loads."""
        server = self.server
        while not server.closing:
            if server.job:
                self.run(server.job)
            elif self.chats.waiting():
                self.chats.advance_all()
            elif server.loads:
                self.load(server.loads.popleft())
            elif server.reporting:
                self.reports.make(server.reporting)
            else:
                server.wake.wait(0.5)
                server.wake.clear()
        self._refuse_all(UserError("the worker is shutting down: try again in a moment"))

    def _refuse_all(self, error: UserError) -> None:
        """Answer everything that is still queued with an error."""
        server = self.server
        if server.job:
            server.job.result.set_exception(error)
        self.chats.end_all(error)
        while server.chats:
            server.chats.popleft().end(error)
        if server.reporting:
            server.reporting.result.set_exception(error)
        while server.loads:
            result = server.loads.popleft().result
            if result.set_running_or_notify_cancel():
                result.set_exception(error)

    # -- training ------------------------------------------------------------------------------------------------------

    def run(self, job: StartRequest) -> None:
        """Take a whole run to its last checkpoint.

        What goes wrong before it begins is the caller's answer; later, it is in the run folder.
        """
        server = self.server
        try:
            start = self.check_start(job)
        except Exception as error:
            server.job = None
            job.result.set_exception(as_user_error(error))
            return
        server.error, server.loading = "", True
        control = RunControl(start.lengths, shutting_down=lambda: server.closing)
        server.live = live = LiveRun(start.run, control)
        try:
            self._load_run(start)
        except Exception as error:
            self.trainer, server.live, server.job, server.loading = None, None, None, False
            self.drop_roles(self.roles())
            job.result.set_exception(as_user_error(error, failure_hint(error)))
            return
        server.loading = live.loading = False
        server.job = None
        job.result.set_result(str(start.run.path))
        try:
            self._drive(live)
        finally:
            self.trainer, server.live = None, None
            # Chats that the policy is answering go on, so it stays until the next start.
            self.drop_roles([role for role in self.roles() if role != "policy" and role not in self.chats.roles])

    def _drive(self, live: LiveRun) -> None:
        """Take the steps of the run that was loaded.

        An error ends the run; it is in the run folder and in the worker's status.
        """
        assert self.trainer and self.backbone
        try:
            drive(self.trainer, live.run, control=live.control, progress=False)
        except Exception as error:
            traceback.print_exc()
            self.server.error = f"{type(error).__name__}: {first_line(error)}"
            # After an error on the GPU itself, every later call fails as well. Only a new process helps.
            self.server.closing |= "CUDA error" in str(error)
        finally:
            self.backbone.train()

    def check_start(self, job: StartRequest) -> RunStart:
        """The run that a request means, with names made paths.

        This is the last gate: everything that can be refused without a model is refused here. Raises UserError.
        """
        if job.resume and job.overwrite:
            raise UserError("resume and overwrite exclude each other")
        home, config = self.server.home, make_config(job.stage, job.config)
        if job.resume and not config.output:
            raise UserError("--output is missing: name the run to resume")
        config.output = resolve_output(home, job.stage, config.output)
        for name in ("adapter", "reward"):
            if hasattr(config, name):
                setattr(config, name, locate(home, getattr(config, name)))
        if isinstance(config, TeachConfig) and is_replay(config.labeler):
            config.labeler = locate_replay(home, config.labeler)
        if job.resume:
            given = {name: getattr(config, name) for name in configs.current_names(job.config)}
            start = check_resume(Run(config.output), job.stage, given)
        else:
            start = check_new(config, overwrite=job.overwrite)
        refuse_foreign_code(start.config)
        return start

    def _load_run(self, start: RunStart) -> None:
        """Load data, base, roles and trainer, and only then open the run folder. Raises UserError."""
        config = start.config
        self.chats.end_all(UserError("a run is starting and has taken the model: ask again in a moment"))
        self.drop_roles(self.roles())
        if self.backbone and not self._has_loaded(config):
            self._unload()
        reset_peak_memory()
        labeler = getattr(config, "labeler", "")
        recorded = recorded_labeler(labeler, run_files=False) if is_replay(labeler) else None
        self.trainer = make_trainer(config, backbone=self.backbone, checkpoint=start.checkpoint, home=self.server.home,
                                    labeler=recorded, votes_upto=start.votes_upto,
                                    on_microbatch=self.chats.advance_all)
        self.backbone, self.loaded_as = self.trainer.backbone, (config.dtype, config.device)
        self.server.model = config.model
        start.open_folder(self.trainer)

    # -- loading -------------------------------------------------------------------------------------------------------

    def load(self, job: LoadRequest) -> None:
        """Load the base of a request, unless it is loaded already."""
        if not job.result.set_running_or_notify_cancel():
            return
        try:
            backbone = self.backbone if self._has_loaded(job) else None
            backbone = backbone or self.replace_base(job.model, job.dtype)
            loaded = {"dtype": backbone.dtype, "device": str(backbone.device)}
            if base := describe_base(job.model, backbone.path):
                loaded["base"] = base
            job.result.set_result(loaded)
        except Exception as error:
            job.result.set_exception(as_user_error(error))

    def replace_base(self, model: str, dtype: str) -> Backbone:
        """Unload the base that is loaded, and load another. Raises UserError."""
        self.server.loading = True
        try:
            self.drop_roles(self.roles())
            self._unload()
            self.backbone, self.loaded_as = Backbone.load(model, dtype=dtype), (dtype, "auto")
            self.server.model = model
            return self.backbone
        finally:
            self.server.loading = False

    def _has_loaded(self, wanted: RunConfig | LoadRequest) -> bool:
        """Whether the base that is loaded is the wanted one, in the wanted dtype and on the wanted device."""
        if self.backbone is None or self.loaded_as != (wanted.dtype, wanted.device):
            return False
        return self.backbone.fingerprint == fingerprint(resolve_model(wanted.model))

    def _unload(self) -> None:
        self.backbone, self.server.model = None, None
        free_memory()

    def roles(self) -> list[str]:
        """The roles that are loaded."""
        return list(self.backbone.roles) if self.backbone else []

    def drop_roles(self, roles: list[str]) -> None:
        """Unload some roles and free their memory."""
        for role in roles:
            self.drop_role(role)
        free_memory()

    def drop_role(self, role: str) -> None:
        """Unload a role, of a run or of a chat."""
        if self.backbone:
            self.backbone.drop_role(role)
        self.chats.roles.pop(role, None)


def refuse_foreign_code(config: RunConfig) -> None:
    """Raises UserError for a reward or a labeler that only the command line takes.

    A file with a scoring function would be run, and a judge is sent a key, wherever its address says.
    """
    for name, remedy in (("reward", "name a reward run here"), ("labeler", "name a person or a built-in one here")):
        value = getattr(config, name, "")
        if is_function(value) or is_judge(value):
            what = "a judge" if is_judge(value) else "a file with a scoring function"
            raise UserError(f"--{name} is {value!r}: {what} is taken on the command line only; {remedy}")


def locate_replay(home: Path, labeler: str) -> str:
    """`replay=RUN` with the path of a run of the workspace `home`. Raises UserError for any other."""
    name = labeler.removeprefix(REPLAY)
    folder = Path(locate(home, name)).resolve()  # a link may lead out
    if folder.parent != (home / "runs").resolve() or not Run(folder).exists():
        raise UserError(f"--labeler is {labeler!r}, but the workspace has no run of that name; choose one from Runs")
    return f"{REPLAY}{folder}"


def free_memory() -> None:
    """Give memory back to the system, and the GPU's to other processes."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
