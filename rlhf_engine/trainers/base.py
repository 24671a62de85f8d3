"""What all trainers share: the loop over steps, live settings, micro-batches, the optimiser, and checkpoints."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import torch

from rlhf_engine.config import LENGTH_FIELDS, RunConfig, check_length, current_name, live_settings
from rlhf_engine.errors import NotFinite, UserError, noop
from rlhf_engine.measures import EXPLAINED_VARIANCE
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import RowLength, micro_batches, out_of_memory, pass_overhead
from rlhf_engine.model.checks.finite import is_finite
from rlhf_engine.trainers.pass_limit import pass_limit
from rlhf_engine.trainers.state import load_checkpoint, save_checkpoint

UNDEFINED_AT_TIMES = (EXPLAINED_VARIANCE,)
"""Measures that may be NaN in a sound run: returns that are all equal have no variance to explain."""

T = TypeVar("T")
ConfigT = TypeVar("ConfigT", bound=RunConfig)

BackwardFunction = Callable[[list[int]], dict[str, float]]
"""Adds the gradients of some rows, given by index. Returns what these rows add to the statistics of the step."""


class Diverged(RuntimeError):
    """The policy has moved too far from the reference to go on. The message says what to change."""


@dataclass(frozen=True)
class GradientSource:
    """Rows of one kind that an optimiser step learns from, and the function that adds their gradients."""

    rows: list[int]
    backward: BackwardFunction
    row_length: RowLength | None = None
    """Tokens of each row. With it the micro-batches are cut so that little is padded; `rows` must be in this order."""


class Trainer(Generic[ConfigT]):
    """An iterator over training steps: `for metrics in trainer`. To pause it, do not ask for the next step.

    A subclass sets `total_steps`, `roles` and `optimizer`, and writes `train_step()`, which does one step and returns
    its metrics. Between micro-batches a trainer calls `on_microbatch()`. There, a worker may answer a chat, with random
    generators of its own.

    Args:
        backbone: the base model with its roles.
        config: the settings. Those in `tunable` may change between two steps.
        on_microbatch: called between micro-batches and, while sampling, after each token.
    """

    roles: tuple[str, ...] = ()
    """Roles that a checkpoint holds, where they exist."""
    pass_tokens: int = 0
    """Most tokens of a pass over several rows, padding included; 0 sets no limit. Chosen before the first pass."""
    passes_chosen = False
    optimizer: torch.optim.Optimizer

    def __init__(self, backbone: Backbone, config: ConfigT, *, on_microbatch: Callable[[], None] = noop):
        self.backbone = backbone
        self.config = config
        self.on_microbatch = on_microbatch
        self.on_news: Callable[[], None] = noop
        self.step = 0
        self.total_steps = 0
        self.max_tokens = min(config.max_tokens, backbone.longest)
        self.micro_batch = config.micro_batch
        """Rows per forward pass; 0 is all. It becomes smaller than the setting once memory has run out."""
        self.prepared = False
        self.overrides: dict[str, float] = {}
        """The live settings that were changed, and their values now."""
        self.initial_settings: dict[str, float] = {}
        """The values that these settings had when the run began."""
        self.data_notes: list[str] = []
        """Remarks on the data, for the journal: how many rows were cut, for example."""
        self.samples: list[dict] = []
        """Texts of the last step, for samples.jsonl."""
        self.events: list[dict] = []
        """Entries of the last step for the journal, each with a key `event`."""

    # -- the loop ----------------------------------------------------------------------------------------------------

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        """Do one step; returns its metrics. Raises NotFinite where a number of it is NaN or infinite."""
        if self.step >= self.total_steps:
            raise StopIteration
        if self.step:
            self.samples, self.events = [], []
        self.prepare_once()
        self.step += 1
        try:
            return check_numbers({"step": self.step, **self.train_step()})
        except NotFinite as error:
            raise NotFinite(f"step {self.step}: {error}") from None

    def prepare_once(self) -> None:
        """Call `prepare` unless that is done already. Its samples and events are reported with the first step."""
        self.choose_passes()
        if self.step == 0 and not self.prepared:
            self.prepare()
        self.prepared = True

    def prepare(self) -> None:
        """Do what happens once before the first step. `state_dict` holds the results: a resumed run does not repeat
        it."""

    def choose_passes(self) -> None:
        """Choose how many tokens a pass reads (`pass_tokens`), unless the setting `micro_batch` says how many rows.

        It happens once, before the first pass. A resumed run keeps the number of its checkpoint if that still fits.
        """
        if self.passes_chosen or self.config.micro_batch:
            return
        self.passes_chosen = True
        longest, example = self.largest_row()
        self.pass_tokens, event = pass_limit(self.backbone, self.config, longest, example,
                                             before=self.pass_tokens if self.step else None)
        if event:
            self.events.append({"event": "passes", "step": self.step + 1, **event})
            if self.step == 0:
                self.on_news()

    def largest_row(self) -> tuple[int, int]:
        """(tokens of the longest token row, tokens of the largest row of the data); 0 for what is not known."""
        return 0, 0

    def train_step(self) -> dict[str, Any]:
        """Do one step and return its metrics. `step` is its number, from 1."""
        raise NotImplementedError(f"{type(self).__name__} has no train_step")

    def blocked_reason(self) -> str:
        """Why the next step has to wait, in words; empty if it need not. Whoever drives the trainer asks repeatedly."""
        return ""

    def replay_journal(self, journal: list[dict]) -> None:
        """Read, in a resumed run, the journal entries of the steps that are about to be repeated, oldest first."""

    def report(self) -> dict[str, Any]:
        """The contents of report.json at the end of the run."""
        return {}

    # -- settings that change while the run goes on ------------------------------------------------------------------

    @property
    def tunable(self) -> tuple[str, ...]:
        """The settings that may change between two steps."""
        return live_settings(type(self.config))

    @property
    def peak_lr(self) -> float:
        """Peak learning rate: the setting, or where that is 0, a rate that fits the width of the model."""
        if self.config.learning_rate:
            return self.config.learning_rate
        return self.config.rate_scale * fitted_learning_rate(self.backbone.hidden_size)

    def change(self, name: str, value: float) -> float:
        """Change a live setting from the next step on, and return its old value.

        Raises UserError, and changes nothing, if the setting or the value is not possible. A change of `LENGTH_FIELDS`
        must leave a step to take: a run that is over has to be made longer before anything else changes.
        """
        if name not in self.tunable:
            raise UserError(f"{name} cannot be changed while the run goes on; what can be is {', '.join(self.tunable)}")
        steps = getattr(self.config, "steps", 0)
        if name == "epochs" and steps:
            raise UserError(f"epochs has no effect: the length of this run is set in steps ({steps}); change steps")
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
        """Try whether these changes are possible, one after the other, and undo them. Raises UserError if one is
        not."""
        before = dict(self.overrides)
        try:
            for name, value in changes.items():
                self.change(name, value)
        finally:
            self.restore_settings(before)

    def restore_settings(self, overrides: dict[str, float]) -> None:
        """Set the live settings to those of a checkpoint: `overrides`, and for the rest the values of the start."""
        overrides = {current_name(name): value for name, value in overrides.items()}
        for name, value in {**self.initial_settings, **overrides}.items():
            self.initial_settings.setdefault(name, getattr(self.config, name))
            self._set(name, value)
        self.overrides = dict(overrides)

    def _set(self, name: str, value: float) -> None:
        setattr(self.config, name, value)
        self.config.validate()
        self.apply_config()

    def apply_config(self) -> None:
        """Recompute what follows from the settings. Called after each change of a live setting."""

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on, except adapters and heads. The keys are those of trainer.json on disk."""
        return {"step": self.step, "micro_batch": self.micro_batch, "pass_tokens": self.pass_tokens,
                "changed": self.overrides, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.step = state["step"]
        self.micro_batch = state["micro_batch"]
        self.pass_tokens = state.get("pass_tokens", 0)
        self.restore_settings(state["changed"])
        self.optimizer.load_state_dict(state["optimizer"])

    def save(self, folder: Path) -> None:
        """Write a checkpoint: one PEFT folder per role, and the trainer's state as safetensors and JSON."""
        save_checkpoint(folder, self.backbone, self.roles, self.state_dict())

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint. Its weights are copied into the roles that this trainer has made."""
        self.load_state_dict(load_checkpoint(folder, self.backbone, self.roles))

    def _make_policy(self) -> None:
        """The roles `policy` and `reference`: a frozen copy of a policy that is there; none beside a fresh one."""
        backbone, config = self.backbone, self.config
        if "policy" in backbone.roles:
            backbone.copy_role("reference", "policy")
        else:
            backbone.new_role("policy", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)

    # -- gradients and the optimiser ---------------------------------------------------------------------------------

    def accumulate(self, rows: list[int], backward: BackwardFunction, *, row_length: RowLength | None = None,
                   also: Sequence[GradientSource] = ()) -> dict[str, float]:
        """Add up the gradients of one optimiser step: call `backward(part)` for each micro-batch `part` of `rows`.

        When memory runs out, the gradients are dropped and the step begins again with smaller micro-batches
        (`retry_on_oom`). Losses are divided by counts of the whole step, so its gradients stay the same.

        Args:
            rows: indices of the rows that the step learns from.
            backward: adds the gradients of some of them.
            row_length: tokens of each row, as in `GradientSource`.
            also: rows of other kinds that the step learns from, too.

        Returns:
            The sums, over all micro-batches, of the statistics that `backward` returns.

        Raises NotFinite, before any weight is changed, if one of them is NaN or infinite.
        """
        sources = [GradientSource(rows, backward, row_length), *also]

        def add_gradients() -> dict[str, float]:
            sums: dict[str, float] = {}
            for source in sources:
                for part in self._micro_batches(source):
                    add_up(sums, source.backward(part))
                    self.on_microbatch()
            return sums

        return check_numbers(self.retry_on_oom(max(len(source.rows) for source in sources), add_gradients))

    def _micro_batches(self, source: GradientSource) -> list[list[int]]:
        if source.row_length is None:
            return micro_batches(source.rows, self.micro_batch)
        return micro_batches(source.rows, self.micro_batch, source.row_length, pass_overhead(self.backbone.device),
                             self.pass_tokens)

    def retry_on_oom(self, rows: int, work: Callable[[], T]) -> T:
        """Return `work()`, which reads at most `rows` rows at a time, in micro-batches of `micro_batch`.

        When memory runs out, the gradients are dropped and `work` begins again with micro-batches of half the size. If
        even single rows do not fit, the error goes to the caller.
        """
        while True:
            try:
                return work()
            except RuntimeError as error:
                size = min(self.micro_batch or rows, rows)
                if size == 1 or not out_of_memory(error):
                    raise
            # Outside of `except`, where the error no longer holds on to the tensors of the failed pass.
            self.optimizer.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self.micro_batch = -(-size // 2)
            self.pass_tokens = -(-self.pass_tokens // 2)
            self.events.append({"event": "memory", "step": self.step, "micro_batch": self.micro_batch, "was": size})

    def set_learning_rates(self, *peak_rates: float) -> float:
        """Set each parameter group to its peak rate times the schedule at this step. Returns the rate of the first."""
        scale = schedule(self.step, self.total_steps, self.config.warmup, self.config.schedule)
        for group, peak_rate in zip(self.optimizer.param_groups, peak_rates):
            group["lr"] = peak_rate * scale
        return peak_rates[0] * scale

    def clip_gradients(self) -> float:
        """Clip the gradients to the global norm `max_grad_norm` (0: do not). Returns the norm before that.

        Raises NotFinite if the norm is NaN or infinite.
        """
        norm = torch.nn.utils.clip_grad_norm_(self._trained(), self.config.max_grad_norm or math.inf).item()
        if not math.isfinite(norm):
            raise NotFinite(f"the norm of the gradients is {norm}")
        return norm

    def update_weights(self) -> None:
        """Take the optimiser's step and clear the gradients. Raises NotFinite if a weight is NaN or infinite then."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        # One norm costs what that of the gradients costs. It also overflows for weights beyond 1e19, which are finite.
        norm = torch.nn.utils.get_total_norm(self._trained())
        if not norm.isfinite() and not all(map(is_finite, self._trained())):
            raise NotFinite("a weight that is trained has become NaN or infinite")

    def _trained(self) -> list[torch.nn.Parameter]:
        """The parameters that the optimiser moves."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def check_numbers(numbers: dict[str, Any]) -> dict[str, Any]:
    """The same numbers, by name. Raises NotFinite for the first that is NaN or infinite, unless it may be."""
    for name, value in numbers.items():
        if isinstance(value, float) and not math.isfinite(value) and name not in UNDEFINED_AT_TIMES:
            raise NotFinite(f"{name} is {value}")
    return numbers


def add_up(sums: dict[str, float], values: dict[str, float]) -> None:
    """Add each of `values` to the entry of the same name in `sums`."""
    for name, value in values.items():
        sums[name] = sums.get(name, 0.0) + value


def fitted_learning_rate(width: int) -> float:
    """Adam's rate for LoRA on a model of hidden size `width` (Schulman et al. 2025, "LoRA Without Regret").

    Ten times 5e-5 at a width of 2000, less for wider models. Measured on the bundled model (width 256): 2e-3 is best
    for SFT; the rule gives 2.5e-3.
    """
    return 5e-4 * (2000 / width) ** 0.78


def schedule(step: int, total: int, warmup: float, kind: str) -> float:
    """Factor on the learning rate, in [0, 1], for steps 1 to `total`.

    It rises linearly over the share `warmup` of the steps. `kind` "linear" also lets it fall linearly, to zero after
    the last step; "constant" does not.
    """
    rise = min(1.0, step / (warmup * total)) if warmup else 1.0
    fall = 1.0 - (step - 1) / total if kind == "linear" else 1.0
    return rise * fall


def adam(*groups: list[torch.nn.Parameter]) -> torch.optim.Adam:
    """Adam as RLHF uses it: eps 1e-5, no weight decay (Ziegler et al. 2019). Each list is a parameter group."""
    return torch.optim.Adam([{"params": group} for group in groups], lr=0.0, eps=1e-5, fused=True)
