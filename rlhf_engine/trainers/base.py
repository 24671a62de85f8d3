"""What the three trainers share: row order, learning rate, optimiser, and saving and loading their state without pickle."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from rlhf_engine.config import LENGTH_FIELDS, RunConfig, check_length, current_name, live_settings
from rlhf_engine.errors import UserError, noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import Length, micro_batches, out_of_memory, pass_price
from rlhf_engine.trainers.state import load_checkpoint, save_checkpoint

T = TypeVar("T")
Backward = Callable[[list[int]], dict[str, float]]
"""Gradients on some rows, by their numbers; returns their share of the step's statistics."""


class Trainer:
    """An iterator over optimiser (or PPO) steps: `for metrics in trainer`. Pausing is not asking for the next one.

    A subclass sets `step`, `total_steps`, `roles` (what its checkpoints hold) and `optimizer`, and writes `train_step()`,
    which does one step and returns its metrics. Between micro-batches it calls `on_microbatch()`, where a worker may answer
    a chat with random generators of its own.
    """

    roles: tuple[str, ...] = ()

    def __init__(self, backbone: Backbone, config: RunConfig, *, on_microbatch: Callable[[], None] = noop):
        self.backbone, self.config, self.on_microbatch = backbone, config, on_microbatch
        self.step, self.total_steps = 0, 0
        self.max_tokens = min(config.max_tokens, backbone.longest)
        self.micro_batch = config.micro_batch
        """Rows per forward pass; smaller than asked for once memory has run out."""
        self.prepared = False
        self.overrides: dict[str, float] = {}
        """Live settings that are no longer what the run began with, and what that was."""
        self.initial_settings: dict[str, float] = {}
        self.samples: list[dict] = []
        """Texts of the last step, for samples.jsonl."""
        self.events: list[dict] = []
        """What the last step has to say in the journal, each with a key `event`."""

    def __iter__(self) -> Iterator[dict]:
        return self

    def __next__(self) -> dict:
        if self.step >= self.total_steps:
            raise StopIteration
        if self.step:
            self.samples, self.events = [], []
        self.prepare_once()
        self.step += 1
        return {"step": self.step} | self.train_step()

    def prepare_once(self) -> None:
        """`prepare`, once; what it has to say is told with the first step."""
        if self.step == 0 and not self.prepared:
            self.prepare()
        self.prepared = True

    def prepare(self) -> None:
        """What happens once before the first step; its results are in `state_dict`, so a resumed run does not repeat it."""

    def train_step(self) -> dict:
        """One step, after `step` has been counted up; returns its metrics."""
        raise NotImplementedError(f"{type(self).__name__} does not say what a step is")

    def blocked_reason(self) -> str:
        """What the next step has to wait for, in words; empty if it need not. Asked again and again meanwhile."""
        return ""

    @property
    def tunable(self) -> tuple[str, ...]:
        """The settings that may change between two steps."""
        return live_settings(type(self.config))

    @property
    def peak_lr(self) -> float:
        """Peak learning rate."""
        return self.config.learning_rate or self.config.rate_scale * fitted_learning_rate(self.backbone.hidden_size)

    def change(self, name: str, value: float) -> float:
        """Change a live setting from the next step on; returns the old value. Raises UserError, and changes nothing, if it cannot be.

        Of `LENGTH_FIELDS`, none that leaves no step to take: a run that is over has to be made longer before anything else.
        """
        if name not in self.tunable:
            raise UserError(f"{name} cannot be changed while the run goes on; what can be is {', '.join(self.tunable)}")
        if name == "epochs" and self.config.steps:
            raise UserError(f"epochs say nothing here: the length of this run is told in steps ({self.config.steps}); change those")
        old = getattr(self.config, name)
        try:
            self._set(name, value)
            if name in LENGTH_FIELDS:
                check_length(self.total_steps, self.step)
        except UserError:
            setattr(self.config, name, old)
            self.apply_config()
            raise
        self.initial_settings.setdefault(name, old)
        self.overrides[name] = getattr(self.config, name)
        return old

    def check(self, changes: dict[str, float]) -> None:
        """Whether these changes can be made, one after the other; none of them is. Raises UserError."""
        before = dict(self.overrides)
        try:
            for name, value in changes.items():
                self.change(name, value)
        finally:
            self.restore_settings(before)

    def restore_settings(self, changed: dict[str, float]) -> None:
        """The live settings of a checkpoint, which may be that of the last step."""
        changed = {current_name(name): value for name, value in changed.items()}
        for name, value in (self.initial_settings | changed).items():
            self.initial_settings.setdefault(name, getattr(self.config, name))
            self._set(name, value)
        self.overrides = dict(changed)

    def _set(self, name: str, value: float) -> None:
        setattr(self.config, name, value)
        self.config.validate()
        self.apply_config()

    def apply_config(self) -> None:
        """Fit what is made from settings to their new values."""

    def replay_journal(self, journal: list[dict]) -> None:
        """What a resumed run is about to do once more, from the journal, in order."""

    def report(self) -> dict:
        """What to write into report.json when the run is over."""
        return {}

    def state_dict(self) -> dict:
        """Everything the next step depends on, except the adapters and heads."""
        return {"step": self.step, "micro_batch": self.micro_batch, "changed": self.overrides, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.micro_batch = state["step"], state["micro_batch"]
        self.restore_settings(state["changed"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        save_checkpoint(folder, self.backbone, self.roles, self.state_dict())

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint: weights are copied into the roles that the trainer has made."""
        self.load_state_dict(load_checkpoint(folder, self.backbone, self.roles))

    def accumulate(self, rows: list[int], backward: Backward, *more: tuple[list[int], Backward, Length | None],
                   length: Length | None = None) -> dict[str, float]:
        """Gradients of one optimiser step: `backward(part)` for each of the `micro_batches` of `rows`; returns the sums of what it returns.

        `more` are rows of other kinds that the step learns from as well, each with a `backward` and a `length` of its own. When memory
        runs out, the gradients are dropped and the step begins again (`retry_on_oom`): losses are divided by counts of the whole step, so its
        gradients are the same.
        """
        kinds = [(rows, backward, length), *more]

        def step() -> dict[str, float]:
            sums: dict[str, float] = {}
            for kind, through, lengths in kinds:
                for part in micro_batches(kind, self.micro_batch, lengths, pass_price(self.backbone.device) if lengths else 0):
                    for name, value in through(part).items():
                        sums[name] = sums.get(name, 0.0) + value
                    self.on_microbatch()
            return sums

        return self.retry_on_oom(max(len(kind) for kind, _, _ in kinds), step)

    def retry_on_oom(self, most: int, work: Callable[[], T]) -> T:
        """What `work` returns, which reads up to `most` rows in micro-batches. When memory runs out, gradients are dropped and it begins
        again, with micro-batches of half the size. Raises what came if single rows do not fit."""
        while True:
            try:
                return work()
            except RuntimeError as error:
                size = min(self.micro_batch or most, most)
                if size == 1 or not out_of_memory(error):
                    raise
            # Outside of `except`, where the error no longer holds on to the tensors of the failed pass.
            self.optimizer.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.micro_batch = -(-size // 2)
            self.events.append({"event": "memory", "step": self.step, "micro_batch": self.micro_batch, "was": size})

    def set_learning_rates(self, *rates: float) -> float:
        """Peak rate of each parameter group times the schedule at this step; returns the first."""
        scale = schedule(self.step, self.total_steps, self.config.warmup, self.config.schedule)
        for group, peak_lr in zip(self.optimizer.param_groups, rates):
            group["lr"] = peak_lr * scale
        return rates[0] * scale

    def clip_gradients(self) -> float:
        """Clip to `max_grad_norm`, unless that is 0; returns the global norm before."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        return torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm or math.inf).item()


def fitted_learning_rate(width: int) -> float:
    """Adam's rate for LoRA by the model's hidden size: ten times 5e-5 at a width of 2000, less for wider models (Schulman et al. 2025).

    Measured on the bundled model (width 256): 2e-3 for SFT, which the rule meets with 2.5e-3.
    """
    return 5e-4 * (2000 / width) ** 0.78


def schedule(step: int, total: int, warmup: float, kind: str) -> float:
    """Factor on the learning rate in [0, 1] for step 1..total: linear warm-up, then constant or linear to zero after the last."""
    rise = min(1.0, step / (warmup * total)) if warmup else 1.0
    fall = 1.0 - (step - 1) / total if kind == "linear" else 1.0
    return rise * fall


def adam(*groups: list[torch.nn.Parameter]) -> torch.optim.Adam:
    """Adam as RLHF uses it: eps 1e-5, no weight decay (Ziegler et al. 2019). One parameter group per role."""
    return torch.optim.Adam([{"params": group} for group in groups], lr=0.0, eps=1e-5, fused=True)


# -- state without pickle --------------------------------------------------------------------------------------------


