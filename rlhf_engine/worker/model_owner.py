"""Inside the worker: the one thread that owns the model. It trains, and answers chats between micro-batches.

Chats must not change a run by a bit: they draw from generators of their own, choose their roles in scopes, and load
their adapters as roles of their own (`chat-...`) without touching the global random state.
"""

import gc
import hashlib
import secrets
import traceback
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rlhf_engine import config as configs
from rlhf_engine.build import make_trainer
from rlhf_engine.config import RunConfig
from rlhf_engine.data.tokenization import encode_prompt
from rlhf_engine.errors import UserError, first_line
from rlhf_engine.feedback.llm_judge import is_judge
from rlhf_engine.feedback.scoring_functions import is_function
from rlhf_engine.loop import drive, failure_hint, forget_peak
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, decode, text_of
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import fingerprint, locate, place_run, resolve_adapter, resolve_model
from rlhf_engine.stages import make_config
from rlhf_engine.trainers.interface import AnyTrainer
from rlhf_engine.worker.protocol import WorkerError
from rlhf_engine.worker.requests import ChatRequest, LiveRun, LoadRequest, Orders, StartRequest
from rlhf_engine.worker.server import Server

KEPT = 4
"""Adapters of past chats that stay loaded."""


@dataclass
class Stream:
    """One answer as it grows: the role that speaks, and the tokens so far."""

    role: str | None
    steps: Iterator[list[tuple[int, int]]]
    ids: list[int] = field(default_factory=list)
    text: str = ""
    ended: bool = False


@dataclass
class ActiveChat:
    """A chat that is being answered, one stream per adapter."""

    chat: ChatRequest
    streams: list[Stream]


class ModelOwner:
    """Owns the backbone, the trainer and the chats' streams. `serve` runs until the server is closing."""

    def __init__(self, server: Server):
        self.server = server
        self.backbone: Backbone | None = None
        self.loaded_as = ("auto", "auto")
        """dtype and device that were asked for when it was loaded."""
        self.trainer: AnyTrainer | None = None
        self.talks: list[ActiveChat] = []
        self.chat_roles: dict[str, None] = {}
        """Roles loaded for chats, the one used last at the end."""

    def serve(self) -> None:
        server = self.server
        while not server.closing:
            if server.job:
                self.run(server.job)
            elif self.talks or server.arrivals:
                self.on_microbatch()
            elif server.loads:
                self.load(server.loads.popleft())
            else:
                server.wake.wait(0.5)
                server.wake.clear()
        leaving = UserError("the worker is shutting down: try again in a moment")
        if server.job:
            server.job.result.set_exception(leaving)
        self._end_talks(leaving)
        while server.arrivals:
            server.arrivals.popleft().end(leaving)
        while server.loads:
            if (job := server.loads.popleft().result).set_running_or_notify_cancel():
                job.set_exception(leaving)

    # -- training ----------------------------------------------------------------------------------------------------

    def run(self, job: StartRequest) -> None:
        """A whole run, to its last checkpoint. What goes wrong is told to whoever asked for it, or stands in the run folder."""
        server = self.server
        try:
            config, run, longer = self._settle(job)
        except Exception as error:
            server.job = None
            job.result.set_exception(as_user_error(error))
            return
        server.error, server.loading = "", True
        server.live = live = LiveRun(run, Orders(lambda: server.closing, longer))
        try:
            self._load_run(config, run, job, longer)
        except Exception as error:
            self.trainer, server.live, server.job, server.loading = None, None, None, False
            self._forget(self._roles())
            job.result.set_exception(as_user_error(error, failure_hint(error)))
            return
        server.loading = live.loading = False
        server.job = None
        job.result.set_result(str(run.path))
        try:
            drive(self.trainer, run, control=live.orders, progress=False)
        except Exception as error:
            traceback.print_exc()
            server.error = f"{type(error).__name__}: {first_line(error)}"
            # After an error on the GPU itself every later call fails as well: a new process is the only cure.
            server.closing |= "CUDA error" in str(error)
        finally:
            self.trainer, server.live = None, None
            self.backbone.train()
            # Answers that the policy is giving go on, so it stays until the next start.
            self._forget([role for role in self._roles() if role != "policy" and role not in self.chat_roles])

    def _load_run(self, config: RunConfig, run: Run, job: StartRequest, longer: dict) -> None:
        """Data, base, roles and trainer, and then the run folder. Raises UserError."""
        self._end_talks(UserError("a run is starting and has taken the model: ask again in a moment"))
        self._forget(self._roles())
        if self.backbone and not self._holds(config):
            self._unload()
        forget_peak()
        checkpoint = run.last_checkpoint() if job.resume else None
        self.trainer = make_trainer(config, backbone=self.backbone, checkpoint=checkpoint, home=self.server.home,
                                    on_microbatch=self.on_microbatch)
        self.backbone, self.loaded_as = self.trainer.backbone, (config.dtype, config.device)
        self.server.model = config.model
        if job.resume:
            self.trainer.check(longer)
            run.truncate_to_checkpoint()
        else:
            Run.create(run.path, config, overwrite=job.overwrite)

    def _settle(self, job: StartRequest) -> tuple[RunConfig, Run, dict]:
        """Settings and run folder of a start, names made paths, and what length a resumed run is to have, if another. Everything that can
        be refused without a model is refused here."""
        if job.resume and job.overwrite:
            raise UserError("resume and overwrite exclude each other")
        home, config = self.server.home, make_config(job.stage, job.config)
        if job.resume and not config.output:
            raise UserError("--output is missing: name the run to resume")
        run, longer = Run(place_run(home, job.stage, config.output)), {}
        config.output = str(run.path)
        for name in {"adapter", "reward"} & set(configs.field_types(type(config))):
            setattr(config, name, locate(home, getattr(config, name)))
        if job.resume:
            given = {name: getattr(config, name) for name in configs.current_names(job.config) if name != "output"}
            held, longer = run.check_resume(job.stage, given), run.length_overrides(given)
            config = make_config(job.stage, held | {"output": str(run.path)})
            if run.status()["state"] == "done" and not longer:
                raise UserError(f"{run.path} is done already: {run.status()['step']} steps; to go on, ask for more (--steps)")
        else:
            Run.check_new(run.path, overwrite=job.overwrite)
        for name, mend in (("reward", "name a reward run here"), ("labeler", "name a person or a built-in one here")):
            value = getattr(config, name, "")
            if is_function(value) or is_judge(value):  # one runs code, the other sends a key to wherever it is told
                what = "a judge" if is_judge(value) else "a file with a scoring function"
                raise UserError(f"--{name} is {value!r}: {what} is taken on the command line only; {mend}")
        return config, run, longer

    def load(self, job: LoadRequest) -> None:
        """A base in the place of the one that is loaded, if that is another."""
        if not job.result.set_running_or_notify_cancel():
            return
        try:
            if not (self.backbone and self._holds(job)):
                self._replace(job.model, job.dtype)
            job.result.set_result({"dtype": self.backbone.dtype, "device": str(self.backbone.device)})
        except Exception as error:
            job.result.set_exception(as_user_error(error))

    def _replace(self, model: str, dtype: str) -> None:
        """Let go of the base that is loaded, and load one. Raises UserError."""
        self.server.loading = True
        try:
            self._forget(self._roles())
            self._unload()
            self.backbone, self.loaded_as = Backbone.load(model, dtype=dtype), (dtype, "auto")
            self.server.model = model
        finally:
            self.server.loading = False

    def _holds(self, config: RunConfig | LoadRequest) -> bool:
        """Whether the loaded base is the one that is wanted, as it is wanted."""
        return (self.loaded_as == (config.dtype, config.device)
                and self.backbone.fingerprint == fingerprint(resolve_model(config.model)))

    def _roles(self) -> list[str]:
        return self.backbone.roles if self.backbone else []

    def _unload(self) -> None:
        self.backbone, self.server.model = None, None
        free_memory()

    def _forget(self, roles: list[str]) -> None:
        for role in roles:
            self._drop(role)
        free_memory()

    def _drop(self, role: str) -> None:
        self.backbone.drop_role(role)
        self.chat_roles.pop(role, None)

    # -- chats -------------------------------------------------------------------------------------------------------

    def on_microbatch(self) -> None:
        """One more token for every chat. While a run is paused, go on until the chats are answered or the run is wanted."""
        server = self.server
        if not (self.talks or server.arrivals) or server.loading:
            return
        live = server.live
        while True:
            with self.backbone.pause_checkpointing() if self.backbone else nullcontext():
                self._admit()
                for talk in list(self.talks):
                    self._advance(talk)
            if not (live and live.orders.paused and live.orders.wish == "pause" and self.talks) or server.closing:
                return

    def _admit(self) -> None:
        """Begin with the chats that have arrived; one that needs another model waits until the others are answered."""
        while self.server.arrivals:
            chat = self.server.arrivals[0]
            try:
                fits = chat.gone or self._fits(chat)
                if not fits and not self.server.live and self.talks:
                    return
                self.server.arrivals.popleft()
                if not chat.gone:
                    if not fits:
                        self._load(chat)
                    self.talks.append(self._begin_talk(chat))
            except Exception as error:
                if self.server.arrivals and self.server.arrivals[0] is chat:
                    self.server.arrivals.popleft()
                chat.end(as_user_error(error))

    def _fits(self, chat: ChatRequest) -> bool:
        backbone = self.backbone
        if backbone is None or chat.dtype not in ("auto", backbone.dtype):
            return False
        # A Hub id other than the loaded one is another model: to find out more, it would have to be downloaded.
        local = chat.model == "bundled" or Path(chat.model).is_dir()
        return fingerprint(resolve_model(chat.model)) == backbone.fingerprint if local else chat.model == backbone.name

    def _load(self, chat: ChatRequest) -> None:
        server = self.server
        if server.live:
            raise UserError(f"the live run holds the model {self.backbone.name} in {self.backbone.dtype}, so {chat.model} in "
                            f"{chat.dtype} cannot be asked now: stop the run first, or chat with its model")
        self._replace(chat.model, chat.dtype)

    def _begin_talk(self, chat: ChatRequest) -> ActiveChat:
        backbone = self.backbone
        prompt = chat.messages if backbone.tokenizer.chat_template else chat.messages[-1]["content"]
        # Of a conversation too long for the model, at least the last half of its positions is read.
        ids = encode_prompt(backbone.tokenizer, prompt, backbone.longest - min(chat.max_new_tokens, backbone.longest // 2)).ids
        sampling = Sampling(min(chat.max_new_tokens, backbone.longest - len(ids)), chat.temperature, top_p=chat.top_p)
        seed = secrets.randbits(63) if chat.seed is None else chat.seed
        roles: list[str | None] = []
        for adapter in chat.adapters:
            roles.append(self._role(adapter, chat.model, roles))
        return ActiveChat(chat, [Stream(role, decode(backbone, [ids], sampling, torch.Generator().manual_seed(seed))) for role in roles])

    def _role(self, adapter: str, model: str, wanted: list[str | None]) -> str | None:
        """The role that speaks for an adapter, loaded if need be; `wanted` are roles that must stay. Raises UserError."""
        place, live = locate(self.server.home, adapter), self.server.live
        if live and Path(place).resolve() == live.run.path and "policy" in self.trainer.roles:
            return "policy"
        folder = resolve_adapter(place, model)
        if folder is None:
            return None
        try:
            folder = folder.resolve(strict=True)
            written = (folder / "adapter_model.safetensors").stat().st_mtime_ns
        except OSError:
            raise UserError(f"{adapter}: this adapter is gone, or holds no adapter_model.safetensors; choose another") from None
        role = f"chat-{hashlib.sha256(f'{folder} {written}'.encode()).hexdigest()[:16]}"
        if role in self.chat_roles:
            self.chat_roles[role] = self.chat_roles.pop(role)
            return role
        used = {stream.role for talk in self.talks for stream in talk.streams} | set(wanted)
        for old in [old for old in self.chat_roles if old not in used][:max(0, len(self.chat_roles) - KEPT + 1)]:
            self._drop(old)
        self._load_role(role, folder)
        return role

    def _load_role(self, role: str, folder: Path) -> None:
        backbone = self.backbone
        cuda = [backbone.device] if backbone.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), backbone.use(None):
            try:
                backbone.load_role(role, folder, head=False)
            except Exception as error:
                if role in backbone.roles:
                    backbone.drop_role(role)
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{folder}: this adapter cannot be read ({type(error).__name__}: {first_line(error)})") from None
        self.chat_roles[role] = None

    def _advance(self, talk: ActiveChat) -> None:
        """One token for each stream of a talk, and the texts to whoever waits for them."""
        try:
            for stream in talk.streams:
                if talk.chat.gone or stream.ended:
                    continue
                with self.backbone.use(stream.role):
                    drawn = next(stream.steps, None)
                if drawn is None:
                    stream.ended = True
                else:
                    stream.ids.append(drawn[0][1])
                text = text_of(self.backbone, stream.ids)
                if stream.ended or not text.endswith("\ufffd"):  # half of a character waits for the other half
                    stream.text = text
            talk.chat.show([stream.text for stream in talk.streams])
            over = talk.chat.gone or all(stream.ended for stream in talk.streams)
            if over:
                talk.chat.end()
        except Exception as error:
            over = True
            talk.chat.end(as_user_error(error))
        if over:
            self.talks.remove(talk)

    def _end_talks(self, error: UserError) -> None:
        for talk in self.talks:
            talk.chat.end(error)
        self.talks.clear()


def as_user_error(error: Exception, advice: str = "") -> UserError:
    """What to tell whoever asked: a UserError as it is; any other is a mistake of ours or a full memory, and goes to the log."""
    if isinstance(error, UserError):
        return error
    traceback.print_exception(error)
    return WorkerError(f"{type(error).__name__}: {first_line(error)}. {advice}".strip())


def free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
