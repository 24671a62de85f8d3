"""The typed settings of each stage. Command line, YAML, the form on the page and the docs all come from them.

The string below a field is its documentation.
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

from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.files import expand_user
from rlhf_engine.yaml_files import read_yaml as read_yaml
from rlhf_engine.yaml_files import yaml_text as yaml_text

KL_PER_TOKEN = 0.2
"""Largest KL target in nats per token of the longest response. Above it, text falls apart."""

MOST_ROWS, MOST_TOKENS, LONGEST, LARGEST = 1 << 16, 1 << 24, 10**9, 1e6
"""Upper bounds of settings: rows that are in memory at once, tokens of a row, steps and votes of a run, coefficients.
They are far beyond what makes sense. A number above them is a mistake, which would fill the memory or take for ever."""
PATHS = ("model", "adapter", "data", "ptx_data", "output", "reward", "labeler")
"""Settings that may name a file or a folder. A `~` at their start is spelled out, wherever they come from."""
LARGEST_WHOLE = 2**53
"""The largest whole number of a setting; a float, and JSON in a browser, holds no larger one exactly."""
LARGEST_SEED = 2**64 - 1
"""Seeds have 64 bits, as torch's random generators do."""
LENGTH_FIELDS = ("steps", "epochs", "votes")
"""The settings that say how long a run is. A resumed run may get other values for these; all others stay."""
LONGEST_PERIOD = 50
"""Most steps between two checkpoints, unless the setting names more."""
OLD_NAMES = {"lam": "gae_lambda", "enough": "score_cap_quantile", "direct": "tamer"}
"""Renamed settings, old name to new. The old name is an alias in YAML, flags, API, journals and checkpoints."""


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
    """Base model: `bundled`, `smollm2`, a Hub id, a .gguf file or a local directory with safetensors weights."""
    adapter: str = "auto"
    """Adapter to start from: `none`, `bundled`, a run folder or a PEFT folder. `auto` is `bundled` for all stages but
    SFT on the bundled model, and `none` elsewhere."""
    data: str = "bundled"
    """Training data: `bundled`, a Hub id, or a local .json, .jsonl, .csv or .parquet file."""
    subset: str = ""
    """Configuration name of a Hub data set that has several."""
    split: str = ""
    """Split of a Hub data set; empty means `train`."""
    limit: int = bounded(0, 0, LONGEST, advanced=True)
    """Read at most this many rows; 0 reads all."""
    output: str = ""
    """Run folder to write."""
    seed: int = bounded(0, 0, LARGEST_SEED)
    """Seed of data order, initial weights and sampling."""
    dtype: Literal["auto", "fp32", "bf16", "nf4"] = "auto"
    """Number format of the frozen base. `auto` is fp32 on a CPU and bf16 on a GPU; `nf4` is 4-bit. Adapters are
    always fp32."""
    device: str = "auto"
    """Where to run: `auto`, `cpu`, `cuda` or `cuda:N`."""
    lora_rank: int = bounded(8, 1, 512)
    """Rank of the LoRA adapters, on every linear layer but the output layer."""
    lora_alpha: int = bounded(16, 1, MOST_ROWS, advanced=True)
    """LoRA scale; updates are multiplied by alpha / rank."""
    max_tokens: int = bounded(512, 8, MOST_TOKENS)
    """Longest prompt plus response in tokens; longer rows are cut from the left of the prompt, and counted."""
    batch_size: int = bounded(16, 1, MOST_ROWS)
    """Rows per optimiser step."""
    micro_batch: int = bounded(0, 0, MOST_ROWS, advanced=True)
    """Most rows per forward pass; 0 is the whole batch. Gradients are the same for every value."""
    learning_rate: float = bounded(0.0, 0.0, live=True)
    """Peak learning rate of Adam on adapters and heads. 0 fits it to the width of the model: ten times the rate of a
    full fine-tuning (Schulman et al. 2025)."""
    warmup: float = bounded(0.05, 0.0, 1.0, advanced=True)
    """Share of the steps in which the learning rate rises linearly from zero."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: `linear` falls to zero (Ziegler 2019), `constant` stays. A run that is made
    longer follows the schedule of the new length, warm-up included."""
    max_grad_norm: float = bounded(1.0, 0.0, LARGEST, advanced=True)
    """Gradients are clipped to this global norm; 0 does not clip."""
    gradient_checkpointing: bool = bounded(False, advanced=True)
    """Recompute activations in the backward pass: less memory, more time."""
    checkpoint_every: int = bounded(0, 0, LONGEST)
    """Steps between checkpoints; 0 is a fifth of the run, and at most 50. The last step always has one."""
    keep_checkpoints: int = bounded(5, 0, LONGEST, advanced=True)
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
            if kind is int and high is None:
                high = LARGEST_WHOLE
            if (low is not None and value < low) or (high is not None and value > high):
                limits = [f"at {word} {limit}" for word, limit in (("least", low), ("most", high)) if limit is not None]
                raise UserError(f"{flag(name)} is {short_repr(value)}, but must be {' and '.join(limits)}")
        max_new_tokens = getattr(self, "max_new_tokens", 0)
        if max_new_tokens >= self.max_tokens:
            raise UserError(f"--max-new-tokens ({max_new_tokens}) leaves no room for a prompt in --max-tokens "
                            f"({self.max_tokens})")
        return self


@dataclass
class SFTConfig(RunConfig):
    """Supervised fine-tuning on demonstrations: cross-entropy of the completion given the prompt."""

    epochs: float = bounded(6.0, 0.0, LARGEST, live=True)
    """Passes over the training rows; the last may be partial. Few demonstrations need more passes (InstructGPT took
    16)."""
    steps: int = bounded(0, 0, LONGEST, live=True)
    """Optimiser steps; 0 takes them from `epochs`."""
    held_out: float = bounded(0.1, 0.0, 0.9)
    """Share of the rows kept out of training to measure the held-out loss."""
    evaluate_every: int = bounded(25, 1, LONGEST)
    """Steps between measurements of the held-out loss."""
    stage: typing.ClassVar[str] = "sft"


@dataclass
class RewardConfig(RunConfig):
    """A reward model: Bradley-Terry on all pairs of a prompt's responses (Ouyang et al. 2022, eq. 1)."""

    epochs: float = bounded(1.0, 0.0, LARGEST, live=True)
    """Passes over the pairs; reward models overfit after one (Ouyang et al. 2022)."""
    steps: int = bounded(0, 0, LONGEST, live=True)
    """Optimiser steps; 0 takes them from `epochs`."""
    held_out: float = bounded(0.15, 0.0, 0.9)
    """Share of the pairs kept out of training to measure accuracy."""
    evaluate_every: int = bounded(25, 1, LONGEST)
    """Steps between measurements of held-out loss and accuracy."""
    reference_samples: int = bounded(256, 2, MOST_ROWS)
    """Responses of the starting policy on which the reward is normalised to mean 0 and standard deviation 1 (Ziegler
    et al. 2019)."""
    max_new_tokens: int = bounded(96, 1, MOST_TOKENS)
    """Longest of these responses, in tokens."""
    ensemble: int = bounded(1, 1, 64)
    """Heads on the reward adapter, each normalised on its own. The reward is their mean; their spread is its
    uncertainty."""
    rating_margin: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Margin per point between two ratings, for rows with `scores` (Touvron et al. 2023 use 1/3 to 1). 0 uses the
    order alone."""
    centring: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Weight of (r_better + r_worse)^2 beside the loss. It keeps scores around 0 (Eisenstein et al. 2023 use
    0.01)."""
    stage: typing.ClassVar[str] = "reward"
    rate_scale: typing.ClassVar[float] = 0.4


@dataclass
class PolicyConfig(RunConfig):
    """What PPO needs to know, whatever the reward."""

    steps: int = bounded(40, 1, LONGEST, live=True)
    """PPO steps; each samples one response to `batch_size` prompts."""
    batch_size: int = bounded(32, 2, MOST_ROWS)
    """Prompts (episodes) per step."""
    value_learning_rate: float = bounded(0.0, 0.0)
    """Peak learning rate of Adam on the value adapter and its head; 0 is twice the policy's."""
    schedule: Literal["linear", "constant"] = "constant"
    """Learning rate after the warm-up: `linear` falls to zero, `constant` stays. A run that is made longer follows
    the schedule of the new length, warm-up included."""
    max_new_tokens: int = bounded(96, 1, MOST_TOKENS, live=True)
    """Longest response in tokens."""
    temperature: float = bounded(1.0, 0.01, 10.0, live=True)
    """Sampling temperature. The same value divides the logits of policy and reference in training."""
    ppo_epochs: int = bounded(2, 1, 1000)
    """Passes over each rollout; Ziegler et al. use 4, InstructGPT 1."""
    minibatches: int = bounded(2, 1, MOST_ROWS)
    """Optimiser steps per pass; each takes `batch_size / minibatches` episodes."""
    clip: float = bounded(0.2, 0.0, 10.0, advanced=True)
    """Clip range of the probability ratio (Schulman et al. 2017, eq. 7)."""
    dual_clip: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Largest cost of a token with a negative advantage, in multiples of that advantage (Ye et al. 2020 use 3). 0
    sets no limit."""
    value_clip: float = bounded(0.2, 0.0, LARGEST, advanced=True)
    """Clip range of the change of the value."""
    value_coef: float = bounded(0.1, 0.0, LARGEST, advanced=True)
    """Weight of the value loss beside the policy loss."""
    value: Literal["adapter", "head", "fitted"] = "adapter"
    """The value function. `adapter` is an adapter of its own that starts from the reward model (Ouyang et al. 2022).
    `head` is a head on the policy's adapter: it takes half the time and learns less per step
    (benchmarks/README.md). `fitted` is a least-squares fit to position and score so far."""
    entropy_coef: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Weight of an entropy bonus, per nat a token (Schulman et al. 2017, eq. 9); RLHF papers use none."""
    ptx_coef: float = bounded(0.0, 0.0, LARGEST)
    """Weight of a pretraining mix beside the policy loss, per nat a token of its text (PPO-ptx, Ouyang et al. 2022,
    eq. 2). It makes the policy forget less: 0.1 takes back most of what is lost and keeps half of the reward
    (benchmarks/README.md). 0 mixes nothing in."""
    ptx_data: str = "bundled"
    """The text to mix in: plain text (a column `text`) or demonstrations. `bundled`, a Hub id or a file, as for
    `data`."""
    ptx_subset: str = bounded("", advanced=True)
    """Configuration name of a Hub data set to mix in, if it has several."""
    ptx_split: str = bounded("", advanced=True)
    """Split of a Hub data set to mix in; empty means `train`."""
    ptx_rows: int = bounded(16, 1, MOST_ROWS, advanced=True)
    """Rows of that text in each optimiser step."""
    update_stop: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Ends the passes of a step before a minibatch on which the policy has moved further than this
    (`policy/approxkl`, nats per token). 0 never ends them early."""
    gamma: float = bounded(1.0, 0.0, 1.0, advanced=True)
    """Discount per token; 1 in all RLHF papers."""
    gae_lambda: float = bounded(0.95, 0.0, 1.0, advanced=True)
    """Lambda of generalised advantage estimation."""
    whiten_rewards: bool = bounded(False, advanced=True)
    """Divide the per-token rewards of a step by their standard deviation."""
    normalise_reward: bool = True
    """Shift and scale the reward to mean 0 and standard deviation 1 on samples of the reference. The KL coefficient
    then means the same for every reward."""
    reward_clip: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Normalised scores are clipped to between minus and plus this; 0 clips nothing."""
    reward_scale: float = bounded(1.0, 0.0, LARGEST, advanced=True)
    """Factor on the normalised score, after clipping."""
    length_penalty: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Taken off the score for each token by which a response is longer than the mean response of the reference."""
    reference_samples: int = bounded(64, 2, MOST_ROWS)
    """Responses of the reference that are sampled to normalise the reward and to decide `missing_end: auto`."""
    missing_end: Literal["auto", "replace", "subtract", "none"] = "auto"
    """What happens to the score of a response that did not end: `replace` sets it to `missing_end_score` (Ziegler et
    al. 2019), `subtract` lowers it by that size, `none` leaves it. `auto` replaces only if most reference samples end
    in time."""
    missing_end_score: float = bounded(-1.0, -LARGEST, LARGEST, advanced=True)
    """The score of, or the penalty for, a response without an end, in normalised reward."""
    kl_coef: float = bounded(0.15, 0.0, LARGEST)
    """Weight of the KL penalty at the start, in normalised reward per nat; 0.15 as in Ziegler et al. 2019."""
    kl_target: float = bounded(6.0, 0.0, LARGEST, live=True)
    """KL to the reference that the controller aims at, in nats per sequence (6 in Ziegler et al. 2019). It is never
    above 0.2 nats a token. 0 keeps `kl_coef` fixed."""
    kl_horizon: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Episodes over which the controller moves (Ziegler et al. 2019); 0 is a twentieth of the run's."""
    kl_lookahead: float = bounded(0.0, 0.0, 1.0, advanced=True)
    """How far the controller looks ahead along the trend of the KL, as a share of the run's steps. 0 is the rule of
    the paper, which overshoots in short runs."""
    kl_floor: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """The controller never lowers the coefficient beneath this. A policy that gets its reward below the target is
    then not pushed on towards the target."""
    kl_stop: float = bounded(2.0, 1.0, LARGEST)
    """Hard stop. Above this multiple of the target a step learns from the KL penalty alone; ten such steps in a row
    end the run."""
    guard: bool = True
    """Halve the learning rate while the text falls apart (repetitive, empty, or unlike the reference's). The warning
    comes in any case."""
    rate_scale: typing.ClassVar[float] = 0.2

    def validate(self) -> "PolicyConfig":
        super().validate()
        if self.batch_size // self.minibatches < 1:
            raise UserError(f"--minibatches is {self.minibatches}, more than --batch-size ({self.batch_size})")
        if self.ptx_coef and not self.ptx_data:
            raise UserError(f"--ptx-coef is {self.ptx_coef:g}, but --ptx-data is empty: name the text to mix in, "
                            "or set --ptx-coef 0")
        return self


@dataclass
class PPOConfig(PolicyConfig):
    """PPO against a reward with a per-token KL penalty to the reference (Ziegler et al. 2019; Ouyang et al. 2022)."""

    reward: str = ""
    """What scores a response: a reward run folder, or FILE.py:FUNCTION (command line only)."""
    stage: typing.ClassVar[str] = "ppo"


@dataclass
class TeachConfig(PolicyConfig):
    """PPO against a reward that learns from votes between its steps (Ziegler et al. 2019, section 2.3)."""

    labeler: str = ""
    """Who votes: `person` (on the page, or through its API), `sentiment`, `short`, `long`, `dialogue`, `keyword=WORD`;
    on the command line also FILE.py:FUNCTION, and a chat model as judge: `judge=MODEL` or `judge=MODEL@URL`
    (OpenAI-compatible, key in OPENAI_API_KEY)."""
    instruction: str = ""
    """What a judge is told to prefer, such as "the happier story". Empty: the more helpful, honest and harmless
    answer."""
    votes: int = bounded(40, 1, LONGEST, live=True)
    """Votes to ask for in all."""
    noise: float = bounded(0.0, 0.0, 1.0)
    """Share of a simulated labeler's votes that are given at random."""
    choices: int = bounded(4, 2, 9)
    """Responses shown at a time. Of two the better is chosen, of more the best."""
    candidates: int = bounded(32, 2, 64)
    """Responses sampled for a query. The ones that teach most are shown."""
    query: Literal["best", "spread", "disagreement", "random"] = "best"
    """How the responses of a query are chosen: `best` takes those of the highest reward (after a tie it does as
    `spread`, so that ties do not go on), `spread` those far apart in reward, `disagreement` those on which the ensemble
    disagrees (Christiano et al. 2017), `random` any."""
    votes_first: int = bounded(24, 1, MOST_ROWS)
    """Votes before the first PPO step, all on responses of the starting policy."""
    votes_per_step: int = bounded(2, 1, MOST_ROWS, advanced=True)
    """Queries asked at each step after that, about the policy of that step."""
    tamer: bool = bounded(False, advanced=True)
    """Learn from the votes themselves, with no reward in between (Knox & Stone 2009): a step is PPO on the responses
    that were voted on. For comparison."""
    ensemble: int = bounded(8, 1, 64, advanced=True)
    """Members of the reward, each with its own weighting of the votes. The spread of their scores is its
    uncertainty."""
    adapter_reward_from: int = bounded(50, 0, LONGEST, advanced=True)
    """Votes from which on an adapter, as `reward` trains one, learns them as well. It takes over from the sparse reward
    if it predicts new votes better. It needs more votes and adds to the time of each step; 0 never has one."""
    pessimism: float = bounded(0.5, 0.0, 10.0, live=True)
    """Standard deviations of the ensemble taken off the reward that PPO sees."""
    score_cap_quantile: float = bounded(0.97, 0.0, 1.0)
    """A response that beats this share of the starting policy's responses is good enough: above that the reward
    hardly grows, so that all responses become good instead of a few extreme. 0 sets no cap."""
    patience: int = bounded(8, 1, LONGEST)
    """Steps without a new vote after which PPO waits for one, as long as people have given fewer than `votes`."""
    votes_trusted: int = bounded(20, 1, LONGEST, advanced=True)
    """Votes that tell responses apart (no ties) at which the reward gets its full spread (1 on the reference's
    responses). With fewer votes it gets their share of it."""
    steps: int = bounded(22, 1, LONGEST, live=True)
    """PPO steps; each samples one response to `batch_size` prompts."""
    batch_size: int = bounded(64, 2, MOST_ROWS)
    """Prompts (episodes) per step."""
    ppo_epochs: int = bounded(1, 1, 1000)
    """Passes over each rollout; fresh responses teach more than old ones seen again."""
    minibatches: int = bounded(4, 1, MOST_ROWS)
    """Optimiser steps per pass; each takes `batch_size / minibatches` episodes."""
    value: Literal["adapter", "head", "fitted"] = "fitted"
    """The value function: `fitted` is a least-squares fit to the position of a token and the score before it, right
    from the first step on; `head` is a head on the policy's adapter; `adapter` is an adapter of its own, which takes
    twice the time."""
    gae_lambda: float = bounded(0.95, 0.0, 1.0, advanced=True)
    """Lambda of generalised advantage estimation."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: `linear` falls to zero, `constant` stays. A run that is made longer follows
    the schedule of the new length, warm-up included."""
    reference_samples: int = bounded(256, 2, MOST_ROWS)
    """Responses of the starting policy on which the reward is normalised. They also give the words that the reward
    can tell apart."""
    normalise_reward: bool = False
    """Normalise once more on samples of the reference. The live reward is normalised after each of its updates
    already."""
    kl_coef: float = bounded(0.2, 0.0, LARGEST)
    """Weight of the KL penalty at the start, in normalised reward per nat (measured: benchmarks/README.md)."""
    kl_target: float = bounded(8.0, 0.0, LARGEST, live=True)
    """KL to the reference that the controller aims at, in nats per sequence. It is never above 0.2 nats a token. 0
    keeps `kl_coef` fixed."""
    kl_horizon: float = bounded(320.0, 0.0, LARGEST, advanced=True)
    """Episodes over which the controller moves (Ziegler et al. 2019); 0 is a twentieth of the run's."""
    kl_lookahead: float = bounded(0.2, 0.0, 1.0, advanced=True)
    """How far the controller looks ahead along the trend of the KL, as a share of the run's steps. 0 is the rule of
    the paper, which overshoots in short runs."""
    kl_floor: float = bounded(0.1, 0.0, LARGEST, advanced=True)
    """The controller never lowers the coefficient beneath this. A policy that gets its reward below the target is
    then not pushed on towards the target."""
    stage: typing.ClassVar[str] = "teach"
    rate_scale: typing.ClassVar[float] = 0.4

    def validate(self) -> "TeachConfig":
        super().validate()
        if self.candidates < self.choices:
            raise UserError(f"--candidates is {self.candidates}, fewer than the {self.choices} responses to show "
                            "(--choices)")
        return self


def check_length(total: int, done: int) -> None:
    """Whether a run that has taken `done` steps can become one of `total`. Raises UserError."""
    if total <= done:
        raise UserError(f"the run would end with step {total}, and has taken {done} already: ask for more than that")


def checkpoint_period(every: int, total: int) -> int:
    """Steps between two checkpoints of a run of `total` steps whose `checkpoint_every` is `every`."""
    return every or min(LONGEST_PERIOD, max(1, -(-total // 5)))


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


@cache
def field_types(cls) -> dict[str, type]:
    """Field name to type, in order."""
    found = typing.get_type_hints(cls)
    return {f.name: found[f.name] for f in dataclasses.fields(cls)}


@cache
def docs(cls) -> dict[str, str]:
    """The documentation of each field: the string that stands below it in the source, on one line.

    Where a field is declared again in a subclass, the string of the subclass counts.
    """
    texts: dict[str, str] = {}
    for base in reversed([each for each in cls.__mro__ if dataclasses.is_dataclass(each)]):
        texts.update(_field_docs(inspect.getsource(typing.cast(type, base))))
    return {name: texts[name] for name in field_types(cls) if name in texts}


def _field_docs(source: str) -> dict[str, str]:
    """The documented fields of one dataclass, from its source."""
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for statement, after in zip(body.body, body.body[1:]):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
            texts[statement.target.id] = " ".join(after.value.value.split())
    return texts


def live_settings(cls) -> tuple[str, ...]:
    """The fields of a config that may change while a run goes on."""
    return tuple(name for name, each in cls.__dataclass_fields__.items() if each.metadata.get("live"))


WANTED = {bool: "true or false", str: "a text", int: "a whole number", float: "a finite number"}
"""What a setting of a type must be, in words."""


def choices(kind) -> tuple[str, ...]:
    """The values of a Literal type, else nothing."""
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()


def coerce(name: str, value, kind):
    """`value` as `kind`, from YAML, a form or a flag. Raises UserError."""
    if options := choices(kind):
        if value not in options:
            raise UserError(f"{flag(name)} is {short_repr(value)}, but must be one of {', '.join(options)}")
        return value
    wrong = UserError(f"{flag(name)} is {short_repr(value)}, but must be {WANTED[kind]}")
    if kind is bool:
        if not isinstance(value, bool):
            raise wrong
        return value
    if kind is str:
        if value is not None and not isinstance(value, (str, Path)):
            quotes = "" if isinstance(value, list | dict) else ': in YAML, put it into "quotes"'
            raise UserError(f"{wrong}{quotes}")
        return check_text(name, expand_user(str(value or "")) if name in PATHS else str(value or ""))
    if isinstance(value, bool):
        raise wrong
    try:
        number = kind(value)
        # A large int is no float: the comparison with the text's float would round it.
        whole = kind is float or isinstance(value, int | str) or number == value
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if not whole or (kind is float and not math.isfinite(number)):
        raise wrong
    return number


def check_text(name: str, text: str) -> str:
    """The same text. Raises UserError for one that no file of ours, or no path, can hold: a file name whose bytes are
    no UTF-8, or a zero byte."""
    if "\x00" in text:
        raise UserError(f"{flag(name)} is {short_repr(text)}, which holds a zero byte: take it out")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        shown = text.encode("ascii", "backslashreplace").decode()
        raise UserError(f"{flag(name)} is {shown}, which is no UTF-8 text: rename the file, or run with "
                        "PYTHONUTF8=1") from None
    return text


def to_dict(config: RunConfig) -> dict:
    return dataclasses.asdict(config)

