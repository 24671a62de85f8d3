"""Chats, answered by the thread that owns the model: between two micro-batches of the run, for as long as these took.

Chats must not change a run by a single bit. They draw from random generators of their own, choose their roles in
scopes, and load their adapters as roles of their own (`chat-...`) without touching the global random state. So does the
reward that chooses the best of several answers, with its head.
"""

import hashlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from rlhf_engine.data.tokenization import encode_prompt
from rlhf_engine.errors import UserError, first_line
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, decode, seeded_generator, text_of
from rlhf_engine.rollout.reward_functions import score_all
from rlhf_engine.runs.adapter_folder import WEIGHTS_FILE
from rlhf_engine.runs.resolve import fingerprint, is_on_hub, locate, resolve_adapter, resolve_model, resolve_reward
from rlhf_engine.trainers.interface import AnyTrainer
from rlhf_engine.worker.protocol import as_user_error
from rlhf_engine.worker.requests import ChatRequest
from rlhf_engine.worker.server import Server

SCORED_TOGETHER = 4
"""Answers that a reward reads at a time: beside a run there is little memory left."""
MAX_CHAT_ROLES = 4
"""Adapters of past chats that stay loaded."""
SHARE = 1.0
"""Seconds for which chats are answered, for each second for which the run has trained since they were answered last. So
a run takes twice as long while somebody chats, and no longer, however many chat."""
LONGEST_TURN = 5.0
"""Seconds for which chats are answered at a time, at most: an order to the run waits that long."""


class BaseOwner(Protocol):
    """Who holds the base and the trainer: `ModelOwner`."""

    server: Server
    backbone: Backbone | None
    trainer: AnyTrainer | None

    def replace_base(self, model: str, dtype: str) -> Backbone:
        """Unload the base that is loaded, and load another."""
        ...

    def drop_role(self, role: str) -> None:
        """Unload a role."""
        ...


@dataclass
class AnswerStream:
    """One answer as it grows: the role that gives it, and the tokens so far. Of several, the first is shown until the
    best is known."""

    role: str | None
    steps: Iterator[list[tuple[int, int]]]
    """Yields (row, token id) for each token drawn."""
    prompt_ids: list[int]
    rows: list[list[int]]
    """Token ids of each answer so far."""
    reward: str | None = None
    """The role that chooses the best of several."""
    text: str = ""
    ended: bool = False

    @property
    def roles(self) -> set[str | None]:
        """The roles that it needs."""
        return {self.role, self.reward}


@dataclass
class ActiveChat:
    """A chat that is being answered, with one stream per adapter."""

    request: ChatRequest
    streams: list[AnswerStream]


class Chats:
    """All chats that are being answered, and the roles that were loaded for them."""

    def __init__(self, owner: BaseOwner):
        self.owner = owner
        self.active: list[ActiveChat] = []
        self.roles: dict[str, None] = {}
        """Roles that were loaded for chats, in the order of their last use."""
        self._answered_at = time.monotonic()
        """When chats were answered last, or looked for in vain."""

    def waiting(self) -> bool:
        """Whether a chat is being answered or waits to be."""
        return bool(self.active or self.owner.server.chats)

    def advance_all(self) -> None:
        """Draw tokens for every answer: one at least, and more for as long as the run has had the model meanwhile.

        Between the tokens of a rollout that is one. After a step of SFT, which is one micro-batch, it is the rest of an
        answer. While a run is paused, go on until all are answered or the run is to go on.
        """
        server, start = self.owner.server, time.monotonic()
        time_left = min(SHARE * (start - self._answered_at), LONGEST_TURN)
        if self.waiting() and not server.loading:
            self._advance_until(start + time_left)
        self._answered_at = time.monotonic()

    def _advance_until(self, deadline: float) -> None:
        """Draw one token for every answer, and another for as long as there is time."""
        server = self.owner.server
        live = server.live
        while True:
            self._admit()
            for chat in list(self.active):
                self._advance(chat)
            run_is_paused = live and live.control.paused and live.control.target == "pause"
            goes_on = run_is_paused or (live and time.monotonic() < deadline)
            if not (goes_on and self.active) or server.closing:
                return

    def end_all(self, error: UserError) -> None:
        """End the chats that are being answered, with an error."""
        for chat in self.active:
            chat.request.end(error)
        self.active.clear()

    # -- beginning -----------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Begin with the chats that have been queued.

        One that needs another model waits until the others are answered.
        """
        server = self.owner.server
        while server.chats:
            request = server.chats[0]
            try:
                model_is_loaded = request.abandoned or self._model_is_loaded(request)
                if not model_is_loaded and not server.live and self.active:
                    return
                server.chats.popleft()
                if not request.abandoned:
                    if not model_is_loaded:
                        self._load_model(request)
                    self.active.append(self._begin(request))
            except Exception as error:
                if server.chats and server.chats[0] is request:
                    server.chats.popleft()
                request.end(as_user_error(error))

    def _model_is_loaded(self, request: ChatRequest) -> bool:
        backbone = self.owner.backbone
        if backbone is None or request.dtype not in ("auto", backbone.dtype):
            return False
        if not is_on_hub(request.model):
            return fingerprint(resolve_model(request.model)) == backbone.fingerprint
        # A Hub id other than the loaded one is taken for another model: to compare the weights, they would have to be
        # downloaded.
        return request.model == backbone.name

    def _load_model(self, request: ChatRequest) -> None:
        if self.owner.server.live:
            backbone = self._backbone()
            raise UserError(f"the live run holds the model {backbone.name} in {backbone.dtype}, so {request.model} in "
                            f"{request.dtype} cannot be asked now: stop the run first, or chat with its model")
        if report := self.owner.server.reporting:
            raise UserError(f"the report about {report.adapter} is being made, and has the model: ask {request.model} "
                            "when it is done, or chat with that model")
        self.owner.replace_base(request.model, request.dtype)

    def _begin(self, request: ChatRequest) -> ActiveChat:
        backbone = self._backbone()
        prompt = request.messages if backbone.tokenizer.chat_template else request.messages[-1]["content"]
        # If a conversation is too long for the model, at least as much of it is read as fills half of the positions.
        room = backbone.longest - min(request.max_new_tokens, backbone.longest // 2)
        ids = encode_prompt(backbone.tokenizer, prompt, room).ids
        max_new_tokens = min(request.max_new_tokens, backbone.longest - len(ids))
        sampling = Sampling(max_new_tokens, request.temperature, top_p=request.top_p)
        seed = secrets.randbits(63) if request.seed is None else request.seed
        roles: list[str | None] = []
        for adapter in request.adapters:
            roles.append(self._role_of(adapter, request.model, roles))
        reward = self._reward_role(request, roles) if request.best_of > 1 else None
        streams = []
        for role in roles:
            steps = decode(backbone, [ids] * request.best_of, sampling, seeded_generator(seed))
            streams.append(AnswerStream(role, steps, ids, [[] for _ in range(request.best_of)], reward))
        return ActiveChat(request, streams)

    # -- roles ---------------------------------------------------------------------------------------------------------

    def _role_of(self, adapter: str, model: str, needed: list[str | None]) -> str | None:
        """The role that answers for an adapter, loaded if need be; None for the bare base.

        The roles in `needed` stay loaded.
        """
        owner = self.owner
        path, live = locate(owner.server.home, adapter), owner.server.live
        if live and os.path.realpath(path) == str(live.run.path) and owner.trainer and "policy" in owner.trainer.roles:
            return "policy"
        folder = resolve_adapter(path, model)
        return None if folder is None else self._loaded_role(adapter, folder, needed)

    def _reward_role(self, request: ChatRequest, needed: list[str | None]) -> str:
        """The role that chooses the best of several answers, with its head, loaded if need be."""
        try:
            folder = resolve_reward(locate(self.owner.server.home, request.reward), "reward")
        except UserError as error:
            raise UserError(str(error).replace(", or FILE.py:FUNCTION", "")) from None
        return self._loaded_role(request.reward, folder, needed, head=True)

    def _loaded_role(self, name: str, folder: Path, needed: list[str | None], *, head: bool = False) -> str:
        """The role of the adapter in a folder, loaded if need be, with its scalar head if asked for."""
        try:
            folder = folder.resolve(strict=True)
            written = (folder / WEIGHTS_FILE).stat().st_mtime_ns
        except OSError:
            raise UserError(f"{name}: this adapter is gone, or holds no adapter_model.safetensors; "
                            "choose another") from None
        kind = "chat-reward" if head else "chat"
        role = f"{kind}-{hashlib.sha256(f'{folder} {written}'.encode()).hexdigest()[:16]}"
        if role in self.roles:
            self.roles[role] = self.roles.pop(role)  # to the end: used last
        else:
            self._make_room(needed)
            self._load_role(role, folder, head=head)
        return role

    def _make_room(self, needed: list[str | None]) -> None:
        """Unload the roles that were used longest ago, until one more may be loaded."""
        in_use = set(needed)
        for chat in self.active:
            for stream in chat.streams:
                in_use.update(stream.roles)
        surplus = max(0, len(self.roles) - MAX_CHAT_ROLES + 1)
        unused = [role for role in self.roles if role not in in_use]
        for role in unused[:surplus]:
            self.owner.drop_role(role)

    def _load_role(self, role: str, folder: Path, *, head: bool) -> None:
        backbone = self._backbone()
        cuda = [backbone.device] if backbone.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), backbone.use(None):
            try:
                backbone.load_role(role, folder, head=head)
            except Exception as error:
                if role in backbone.roles:
                    backbone.drop_role(role)
                if isinstance(error, UserError):
                    raise
                raise UserError(f"{folder}: this adapter cannot be read ({type(error).__name__}: "
                                f"{first_line(error)})") from None
        self.roles[role] = None

    # -- going on ------------------------------------------------------------------------------------------------------

    def _advance(self, chat: ActiveChat) -> None:
        """Draw one token for each answer of a chat, and hand its reader the texts."""
        request = chat.request
        try:
            for stream in chat.streams:
                if not (request.abandoned or stream.ended):
                    self._draw(stream)
            request.show([stream.text for stream in chat.streams])
            over = request.abandoned or all(stream.ended for stream in chat.streams)
            if over:
                request.end()
        except Exception as error:
            over = True
            request.end(as_user_error(error))
        if over:
            self.active.remove(chat)

    def _draw(self, stream: AnswerStream) -> None:
        backbone = self._backbone()
        with backbone.use(stream.role):
            drawn = next(stream.steps, None)
        shown = 0
        if drawn is None:
            stream.ended = True
            shown = self._best_row(stream)
        else:
            for row, token in drawn:
                stream.rows[row].append(token)
        text = text_of(backbone, stream.rows[shown])
        if stream.ended or not text.endswith("\ufffd"):  # half of a character waits for the other half
            stream.text = text

    def _best_row(self, stream: AnswerStream) -> int:
        """The answer with the highest reward; the first where there is one alone."""
        if stream.reward is None:
            return 0
        rows = [stream.prompt_ids + ids for ids in stream.rows]
        return int(score_all(self._backbone(), rows, batch=SCORED_TOGETHER, role=stream.reward).argmax())

    def _backbone(self) -> Backbone:
        if self.owner.backbone is None:
            raise RuntimeError("no base is loaded")  # _admit has loaded one
        return self.owner.backbone
