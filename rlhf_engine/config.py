"""One typed configuration per stage; it drives the command line, the YAML in a run folder, the form on the page and the docs.

Every field carries its documentation as the string below it, so that there is one place to read and one to change.
"""

import ast
import dataclasses
import inspect
import math
import typing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import yaml

from rlhf_engine.errors import UserError

KL_PER_TOKEN = 0.2
"""The KL target in nats per sequence is never above this many nats per token of the longest response: beyond it text falls apart."""


LENGTH_FIELDS = ("steps", "epochs", "votes")
"""The settings that say how long a run is. A resumed run may get other values for these; all others stay as they were."""
OLD_NAMES = {"lam": "gae_lambda", "enough": "score_cap_quantile", "direct": "tamer"}
"""Settings that have been renamed, old name to new. The old one is an alias in YAML, flags, API, journals and checkpoints."""


def bounded(default, low=None, high=None, *, advanced=False, live=False):
    """A dataclass field with inclusive bounds.

    `advanced` puts it behind "All settings" in a form. `live` lets it change while a run goes on.
    """
    return field(default=default, metadata={"low": low, "high": high, "advanced": advanced, "live": live})


def current_name(name: str) -> str:
    """The name that a setting has today."""
    return OLD_NAMES.get(name, name)


def old_names(name: str) -> list[str]:
    """The names that a setting had before."""
    return [old for old, new in OLD_NAMES.items() if new == name]


def current_names(values: dict) -> dict:
    """The same settings under the names of today. Raises UserError where one is given under both names."""
    renamed = {}
    for name, value in values.items():
        new = current_name(name)
        if new in renamed and renamed[new] != value:
            raise UserError(f"{flag(new)} is given twice, also under its old name: give it once")
        renamed[new] = value
    return renamed


@dataclass
class RunConfig:
    """What every training stage needs to know."""

    model: str = "bundled"
    """Base model: `bundled`, a Hub id or a local directory with safetensors weights."""
    adapter: str = "auto"
    """Adapter to start from: `none`, `bundled`, a run folder or a PEFT folder; `auto` is `bundled` for reward and PPO
    on the bundled model, else `none`."""
    data: str = "bundled"
    """Training data: `bundled`, a Hub id, or a local .json, .jsonl, .csv or .parquet file."""
    subset: str = ""
    """Configuration name of a Hub data set that has several."""
    split: str = ""
    """Split of a Hub data set; empty means `train`."""
    limit: int = bounded(0, 0, advanced=True)
    """Read at most this many rows; 0 reads all."""
    output: str = ""
    """Run folder to write."""
    seed: int = bounded(0, 0)
    """Seed of data order, initial weights and sampling."""
    dtype: Literal["auto", "fp32", "bf16", "nf4"] = "auto"
    """Number format of the frozen base; `auto` is fp32 on a CPU and bf16 on a GPU, `nf4` is 4-bit. Adapters are always
    fp32."""
    device: str = "auto"
    """Where to run: `auto`, `cpu`, `cuda` or `cuda:N`."""
    lora_rank: int = bounded(8, 1, 512)
    """Rank of the LoRA adapters, on every linear layer but the output layer."""
    lora_alpha: int = bounded(16, 1, advanced=True)
    """LoRA scale; updates are multiplied by alpha / rank."""
    max_tokens: int = bounded(512, 8)
    """Longest prompt plus response in tokens; longer rows are cut from the left of the prompt, and counted."""
    batch_size: int = bounded(16, 1)
    """Rows per optimiser step."""
    micro_batch: int = bounded(0, 0, advanced=True)
    """Rows per forward pass at most; 0 is the whole batch. Gradients are the same for every value."""
    learning_rate: float = bounded(0.0, 0.0, live=True)
    """Peak learning rate of Adam on adapters and heads; 0 fits it to the width of the model, ten times a full
    fine-tuning's (Schulman et al. 2025)."""
    warmup: float = bounded(0.05, 0.0, 1.0, advanced=True)
    """Share of the steps in which the learning rate rises linearly from zero."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: falling linearly to zero (Ziegler 2019), or constant. Once a run is made longer
    or shorter, it is that of a run of the new length, warm-up included."""
    max_grad_norm: float = bounded(1.0, 0.0, advanced=True)
    """Gradients are clipped to this global norm; 0 does not clip."""
    gradient_checkpointing: bool = bounded(False, advanced=True)
    """Recompute activations in the backward pass: less memory, more time."""
    checkpoint_every: int = bounded(50, 1)
    """Steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = bounded(5, 0, advanced=True)
    """Newest checkpoints kept; 0 keeps all."""

    stage: typing.ClassVar[str] = ""
    rate_scale: typing.ClassVar[float] = 1.0
    """Share of the fitted learning rate that suits the stage (benchmarks/README.md)."""

    def validate(self) -> "RunConfig":
        """Types, choices and bounds of every field. Raises UserError that names the field and the mend."""
        for name, kind in field_types(type(self)).items():
            setattr(self, name, coerce(name, getattr(self, name), kind))
            meta = type(self).__dataclass_fields__[name].metadata
            value, low, high = getattr(self, name), meta.get("low"), meta.get("high")
            if low is not None and value < low:
                raise UserError(f"{flag(name)} is {value}, but must be at least {low}")
            if high is not None and value > high:
                raise UserError(f"{flag(name)} is {value}, but must be at most {high}")
        if "max_new_tokens" in field_types(type(self)) and self.max_new_tokens >= self.max_tokens:
            raise UserError(f"--max-new-tokens ({self.max_new_tokens}) leaves no room for a prompt in --max-tokens ({self.max_tokens})")
        return self


@dataclass
class SFTConfig(RunConfig):
    """Supervised fine-tuning on demonstrations: cross-entropy of the completion given the prompt."""

    epochs: float = bounded(6.0, 0.0, live=True)
    """Passes over the training rows; the last may be partial. Few demonstrations want more (InstructGPT took 16)."""
    steps: int = bounded(0, 0, live=True)
    """Optimiser steps; 0 takes them from `epochs`."""
    held_out: float = bounded(0.1, 0.0, 0.9)
    """Share of the rows kept out of training to measure the held-out loss."""
    evaluate_every: int = bounded(25, 1)
    """Steps between measurements of the held-out loss."""
    stage: typing.ClassVar[str] = "sft"


@dataclass
class RewardConfig(RunConfig):
    """A reward model from preferences: Bradley-Terry on all pairs of a prompt's responses (Ouyang et al. 2022, eq. 1).
    A reward model from preferences: Bradley-Terry on all pairs of a prompt's responses (Ouyang et al. 2022, eq. 1)."""

    epochs: float = bounded(1.0, 0.0, live=True)
    """Passes over the pairs; reward models overfit after one (Ouyang et al. 2022)."""
    steps: int = bounded(0, 0, live=True)
    """Optimiser steps; 0 takes them from `epochs`."""
    held_out: float = bounded(0.15, 0.0, 0.9)
    """Share of the pairs kept out of training to measure accuracy."""
    evaluate_every: int = bounded(25, 1)
    """Steps between measurements of held-out loss and accuracy."""
    reference_samples: int = bounded(256, 2)
    """Responses of the starting policy on which the reward is normalised to mean 0 and standard deviation 1 (Ziegler
    et al. 2019)."""
    max_new_tokens: int = bounded(96, 1)
    """Longest of these responses, in tokens."""
    ensemble: int = bounded(1, 1, 64)
    """Heads on the reward adapter, each normalised on its own; the reward is their mean, their spread is its
    uncertainty."""
    rating_margin: float = bounded(0.0, 0.0, advanced=True)
    """Margin per point between two ratings, where rows have `scores`; Touvron et al. 2023 use 1/3 to 1. 0: only the
    order counts."""
    centring: float = bounded(0.0, 0.0, advanced=True)
    """Weight of (r_better + r_worse)^2 beside the loss, which keeps scores around 0 (Eisenstein et al. 2023 use 0.01).
    Weight of (r_better + r_worse)^2 beside the loss, which keeps scores around 0 (Eisenstein et al. 2023 use 0.01)."""
    stage: typing.ClassVar[str] = "reward"
    rate_scale: typing.ClassVar[float] = 0.4


@dataclass
class PolicyConfig(RunConfig):
    """What PPO needs to know, whatever the reward."""

    steps: int = bounded(40, 1, live=True)
    """PPO steps; each samples one response to `batch_size` prompts."""
    batch_size: int = bounded(32, 2)
    """Prompts (episodes) per step."""
    value_learning_rate: float = bounded(0.0, 0.0)
    """Peak learning rate of Adam on the value adapter and its head; 0 is twice the policy's."""
    schedule: Literal["linear", "constant"] = "constant"
    """Learning rate after the warm-up: falling linearly to zero, or constant. Once a run is made longer or shorter, it
    is that of a run of the new length, warm-up included."""
    max_new_tokens: int = bounded(96, 1, live=True)
    """Longest response in tokens."""
    temperature: float = bounded(1.0, 0.01, 10.0, live=True)
    """Sampling temperature; the same one divides the logits of policy and reference in training."""
    ppo_epochs: int = bounded(2, 1)
    """Passes over each rollout; Ziegler et al. use 4, InstructGPT 1."""
    minibatches: int = bounded(2, 1)
    """Optimiser steps per pass; each takes `batch_size / minibatches` episodes."""
    clip: float = bounded(0.2, 0.0, 10.0, advanced=True)
    """Clip range of the probability ratio (Schulman et al. 2017, eq. 7)."""
    dual_clip: float = bounded(0.0, 0.0, advanced=True)
    """Bound on what a token with a negative advantage can cost, in multiples of it (Ye et al. 2020 use 3); 0 sets
    none."""
    value_clip: float = bounded(0.2, 0.0, advanced=True)
    """Clip range of the change of the value."""
    value_coef: float = bounded(0.1, 0.0, advanced=True)
    """Weight of the value loss beside the policy loss."""
    value: Literal["adapter", "head"] = "adapter"
    """The value function: an adapter of its own that starts from the reward model (Ouyang et al. 2022), or a head on
    the policy's adapter, which takes half the time and learns less per step (benchmarks/README.md)."""
    entropy_coef: float = bounded(0.0, 0.0, advanced=True)
    """Weight of an entropy bonus, per nat a token (Schulman et al. 2017, eq. 9); RLHF papers use none."""
    ptx_coef: float = bounded(0.0, 0.0)
    """Weight of a pretraining mix beside the policy loss (PPO-ptx, Ouyang et al. 2022, eq. 2), per nat a token of its
    text, so that less is forgotten: 0.1 takes back most of the loss and keeps half of the reward
    (benchmarks/README.md). 0 mixes nothing in."""
    ptx_data: str = "bundled"
    """What is mixed in: plain text (a column `text`) or demonstrations; `bundled`, a Hub id or a file, as for `data`.
    What is mixed in: plain text (a column `text`) or demonstrations; `bundled`, a Hub id or a file, as for `data`."""
    ptx_subset: str = bounded("", advanced=True)
    """Configuration name of a Hub data set to mix in, if it has several."""
    ptx_split: str = bounded("", advanced=True)
    """Split of a Hub data set to mix in; empty means `train`."""
    ptx_rows: int = bounded(16, 1, advanced=True)
    """Rows of it in each optimiser step."""
    update_stop: float = bounded(0.0, 0.0, advanced=True)
    """Ends a step's passes before a minibatch on which the policy has moved by more than this (`policy/approxkl`, nats
    per token); 0 never does."""
    gamma: float = bounded(1.0, 0.0, 1.0, advanced=True)
    """Discount per token; 1 in all RLHF papers."""
    gae_lambda: float = bounded(0.95, 0.0, 1.0, advanced=True)
    """Lambda of generalised advantage estimation."""
    whiten_rewards: bool = bounded(False, advanced=True)
    """Divide the per-token rewards of a step by their standard deviation."""
    normalise_reward: bool = True
    """Shift and scale the reward to mean 0 and standard deviation 1 on samples of the reference, so that the KL
    coefficient means the same for every reward."""
    reward_clip: float = bounded(0.0, 0.0, advanced=True)
    """Normalised scores are clipped to between minus and plus this; 0 clips nothing."""
    reward_scale: float = bounded(1.0, 0.0, advanced=True)
    """Factor on the normalised score, after clipping."""
    length_penalty: float = bounded(0.0, 0.0, advanced=True)
    """Taken off the score for every token by which a response is longer than the reference's on average."""
    reference_samples: int = bounded(64, 2)
    """Responses of the reference used for that, and to decide `missing_end: auto`."""
    missing_end: Literal["auto", "replace", "subtract", "none"] = "auto"
    """Score of a response that did not end: replaced by `missing_end_score` (Ziegler et al. 2019), lowered by its
    size, or left; `auto` replaces only if most reference samples end in time."""
    missing_end_score: float = bounded(-1.0, advanced=True)
    """The score of, or the penalty for, a response without an end, in normalised reward."""
    kl_coef: float = bounded(0.15, 0.0)
    """Weight of the KL penalty at the start, in normalised reward per nat; 0.15 as in Ziegler et al. 2019."""
    kl_target: float = bounded(6.0, 0.0, live=True)
    """KL to the reference that the controller aims at, in nats per sequence (6 as in Ziegler et al. 2019); never above
    0.2 nats a token. 0 keeps `kl_coef` fixed."""
    kl_horizon: float = bounded(0.0, 0.0, advanced=True)
    """Episodes over which the controller moves (Ziegler et al. 2019); 0 is a twentieth of the run's."""
    kl_lookahead: float = bounded(0.0, 0.0, 1.0, advanced=True)
    """How far ahead the controller looks along the trend of the KL, as a share of the run's steps; 0 is the paper's
    rule, which overshoots in short runs."""
    kl_floor: float = bounded(0.0, 0.0, advanced=True)
    """The controller does not lower the coefficient beneath this: a policy that gets its reward below the target is
    not driven on towards it."""
    kl_stop: float = bounded(2.0, 1.0)
    """Hard stop: above this multiple of the target a step learns from the KL penalty alone, and ten such steps in a
    row end the run."""
    guard: bool = True
    """Halve the learning rate while the text falls apart (repetitive, empty, or unlike the reference's); it is warned
    of in any case."""
    rate_scale: typing.ClassVar[float] = 0.2

    def validate(self) -> "PolicyConfig":
        super().validate()
        if self.batch_size // self.minibatches < 1:
            raise UserError(f"--minibatches is {self.minibatches}, more than --batch-size ({self.batch_size})")
        if self.ptx_coef and not self.ptx_data:
            raise UserError(f"--ptx-coef is {self.ptx_coef:g}, but --ptx-data is empty: name the text to mix in, or set --ptx-coef 0")
        return self


@dataclass
class PPOConfig(PolicyConfig):
    """PPO against a reward with a per-token KL penalty to the reference (Ziegler et al. 2019; Ouyang et al. 2022)."""

    reward: str = ""
    """What scores a response: a reward run folder, or FILE.py:FUNCTION (command line only)."""
    stage: typing.ClassVar[str] = "ppo"


@dataclass
class TeachConfig(PolicyConfig):
    """PPO that is taught while it runs: votes train the reward between its steps (Ziegler et al. 2019, section 2.3;
    Christiano et al. 2017)."""

    labeler: str = ""
    """Who votes: `person` (on the page, or through its API), `sentiment`, `short`, `long`, `dialogue`, `keyword=WORD`;
    on the command line also FILE.py:FUNCTION, and a chat model as judge: `judge=MODEL` or `judge=MODEL@URL`
    (OpenAI-compatible, key in OPENAI_API_KEY)."""
    instruction: str = ""
    """What a judge is told to prefer, such as "the happier story"; empty: the more helpful, honest and harmless
    answer."""
    votes: int = bounded(40, 1, live=True)
    """Votes to ask for in all."""
    noise: float = bounded(0.0, 0.0, 1.0)
    """Share of a simulated labeler's votes that are given at random."""
    choices: int = bounded(4, 2, 9)
    """Responses shown at a time; of more than two the best is chosen."""
    candidates: int = bounded(32, 2, 64)
    """Responses sampled for a query, of which those are shown that teach most."""
    query: Literal["best", "spread", "disagreement", "random"] = "best"
    """How they are chosen: those of the highest reward, far apart in reward, where the ensemble disagrees (Christiano
    et al. 2017), or at random."""
    votes_first: int = bounded(24, 1)
    """Votes before the first PPO step, all on responses of the starting policy."""
    votes_per_step: int = bounded(2, 1, advanced=True)
    """Queries asked at each step after that, on the policy as it is then."""
    tamer: bool = bounded(False, advanced=True)
    """Learn from the votes themselves, without a reward in between (Knox & Stone 2009): a step is PPO on the responses
    that were voted on. For comparison."""
    ensemble: int = bounded(8, 1, 64, advanced=True)
    """Members of the reward, each with its own weighting of the votes; the spread of their scores is its uncertainty.
    Members of the reward, each with its own weighting of the votes; the spread of their scores is its uncertainty."""
    pessimism: float = bounded(0.5, 0.0, 10.0, live=True)
    """Standard deviations of the ensemble taken off the reward that PPO sees."""
    score_cap_quantile: float = bounded(0.97, 0.0, 1.0)
    """A response that beats this share of the starting policy's is good enough: the reward hardly grows above that, so
    that all become good instead of some extreme. 0 sets no such end."""
    patience: int = bounded(8, 1)
    """Steps without a new vote after which PPO waits for one, while people have given fewer than `votes`."""
    votes_trusted: int = bounded(20, 1, advanced=True)
    """Votes that tell responses apart (no ties) from which on the reward has its full spread (1 on the reference's
    responses); with fewer it has their share of it."""
    steps: int = bounded(22, 1, live=True)
    """PPO steps; each samples one response to `batch_size` prompts."""
    batch_size: int = bounded(64, 2)
    """Prompts (episodes) per step."""
    ppo_epochs: int = bounded(1, 1)
    """Passes over each rollout; fresh responses teach more than old ones seen again."""
    minibatches: int = bounded(4, 1)
    """Optimiser steps per pass; each takes `batch_size / minibatches` episodes."""
    value: Literal["adapter", "head"] = "head"
    """The value function: a head on the policy's adapter, or an adapter of its own, which takes twice the time; the
    live reward tells PPO about every token, and leaves little to guess."""
    gae_lambda: float = bounded(0.8, 0.0, 1.0, advanced=True)
    """Lambda of generalised advantage estimation; less than PPO's 0.95, because the live reward is told token by
    token."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: falling linearly to zero, or constant. Once a run is made longer or shorter, it
    is that of a run of the new length, warm-up included."""
    reference_samples: int = bounded(256, 2)
    """Responses of the starting policy on which the reward is normalised, and from which it knows the words there are.
    Responses of the starting policy on which the reward is normalised, and from which it knows the words there are."""
    normalise_reward: bool = False
    """Normalise once more on samples of the reference; the live reward is normalised after each of its updates
    already."""
    kl_coef: float = bounded(0.2, 0.0)
    """Weight of the KL penalty at the start, in normalised reward per nat (measured: benchmarks/README.md)."""
    kl_target: float = bounded(8.0, 0.0, live=True)
    """KL to the reference that the controller aims at, in nats per sequence; never above 0.2 nats a token. 0 keeps
    `kl_coef` fixed."""
    kl_horizon: float = bounded(320.0, 0.0, advanced=True)
    """Episodes over which the controller moves (Ziegler et al. 2019); 0 is a twentieth of the run's."""
    kl_lookahead: float = bounded(0.2, 0.0, 1.0, advanced=True)
    """How far ahead the controller looks along the trend of the KL, as a share of the run's steps; 0 is the paper's
    rule, which overshoots in short runs."""
    kl_floor: float = bounded(0.1, 0.0, advanced=True)
    """The controller does not lower the coefficient beneath this: a policy that gets its reward below the target is
    not driven on towards it."""
    checkpoint_every: int = bounded(10, 1)
    """Steps between checkpoints; the last step always has one."""
    stage: typing.ClassVar[str] = "teach"
    rate_scale: typing.ClassVar[float] = 0.4

    def validate(self) -> "TeachConfig":
        super().validate()
        if self.candidates < self.choices:
            raise UserError(f"--candidates is {self.candidates}, fewer than the {self.choices} responses to show (--choices)")
        return self


def check_length(total: int, done: int) -> None:
    """Whether a run that has taken `done` steps can become one of `total`. Raises UserError."""
    if total <= done:
        raise UserError(f"the run would end with step {total}, and has taken {done} already: ask for more than that")


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@cache
def field_types(cls) -> dict[str, type]:
    """Field name to type, in order."""
    found = typing.get_type_hints(cls)
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}


@cache
def docs(cls) -> dict[str, str]:
    """Field name to the string that stands below it in the source, the nearest class of the inheritance first."""
    found: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        body = ast.parse(inspect.getsource(base)).body[0].body
        for statement, after in zip(body, body[1:]):
            if isinstance(statement, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                found[statement.target.id] = " ".join(after.value.value.split())
    return {name: found[name] for name in field_types(cls) if name in found}


def live_settings(cls) -> tuple[str, ...]:
    """The fields of a config that may change while a run goes on."""
    return tuple(name for name, each in cls.__dataclass_fields__.items() if each.metadata.get("live"))


def choices(kind) -> tuple[str, ...]:
    """The values of a Literal type, else nothing."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def coerce(name: str, value, kind):
    """`value` as `kind`, from YAML, a form or a flag. Raises UserError."""
    if options := choices(kind):
        if value not in options:
            raise UserError(f"{flag(name)} is {value!r}, but must be one of {', '.join(options)}")
        return value
    wrong = UserError(f"{flag(name)} is {value!r}, but must be {'true or false' if kind is bool else f'of type {kind.__name__}'}")
    if kind is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind is str:
        if value is not None and not isinstance(value, (str, Path)):
            raise wrong
        return str(value or "")
    if isinstance(value, bool):
        raise wrong
    try:
        number = kind(value)
        whole = kind is float or number == float(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if not math.isfinite(number) or not whole:
        raise wrong
    return number


def to_dict(config: RunConfig) -> dict:
    return dataclasses.asdict(config)


def read_yaml(path: str | Path) -> dict:
    """The mapping in a YAML file. Raises UserError with file and line for anything else."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for a date like 2024-13-45
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        what = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UserError(f"{path}{where}: not valid YAML ({what})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected `setting: value` lines, found {type(values).__name__}")
    return values


def yaml_text(values: dict) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
