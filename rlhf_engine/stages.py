"""The table of stages: one row makes a stage known to the command line, the page, the worker and the memory estimate.

A new stage is a config, a trainer, a function that builds it, and a row here. `register` adds a row from outside.
"""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from rlhf_engine import config as configs
from rlhf_engine.config import (
    DPOConfig,
    GroupConfig,
    NLPOConfig,
    PPOConfig,
    RewardConfig,
    RFTConfig,
    RunConfig,
    SFTConfig,
    TeachConfig,
)
from rlhf_engine.errors import UserError, short_repr
from rlhf_engine.spelling import closest

SFT, REWARD, DPO, PPO, NLPO, GRPO, RFT, TEACH = (
    "sft", "reward", "dpo", "ppo", "nlpo", "grpo", "rft", "teach")
DEMONSTRATIONS, PREFERENCES, THUMBS, PROMPTS = "demonstrations", "preferences", "thumbs", "prompts"
"""Kinds of data that a stage can read."""
BUNDLED_PROMPT_TOKENS = 18
"""Tokens of the longest bundled prompt on the bundled model."""
OWN_PROMPT_TOKENS = {"smollm2": 52}
"""The same of models with bundled prompts of their own (`data.tables.OWN_PROMPTS`)."""


@dataclass(frozen=True)
class MemoryProfile:
    """What the memory estimate has to know about a stage. The defaults are those of SFT."""

    trained: str = "policy"
    """The role that gets gradients."""
    sampled: Callable[[RunConfig], int] = lambda config: 0
    """Responses that are sampled at a time; 0 where none are."""
    rows_per_example: int = 1
    """Token rows that one row of the data becomes: 2 for a pair."""
    online: bool = False
    """The update learns from sampled responses, in minibatches."""
    reference: bool = False
    """A frozen reference stands beside the policy."""
    reward_adapter: bool = False
    """A reward adapter stands beside the policy."""
    masks: Callable[[RunConfig], bool] = lambda config: False
    """Whether an older copy of the policy masks what is sampled: a further adapter, and a second cache."""
    reads_base_states: bool = False
    """A live reward reads the states of the base at every step."""
    logits: bool = True
    """The update reads logits; a reward model reads states alone."""
    bundled_tokens: int = 110
    """Tokens of the longest row of the bundled data on the bundled model; of an online stage the longest prompt."""


@dataclass(frozen=True)
class Stage:
    """One row of the table."""

    name: str
    """The command, and the value of `stage` in config.yaml."""
    config: type[RunConfig]
    help: str
    """One line for the command line and for the page."""
    build: str
    """Dotted name of the function that builds the trainer from a `build.Inputs`. Resolved late: it imports torch."""
    reads: Callable[[RunConfig], str]
    """The kind of data that a config of this stage reads."""
    title: str = ""
    """Its short name on the page; empty takes `name`."""
    method: str = ""
    """What it does to a model, in words for a model card; empty takes the title."""
    makes: str = "policy"
    """The role that a finished run is for: `policy` answers in a chat, `reward` scores."""
    starts_from_sft: bool = True
    """On the bundled model, `adapter: auto` is the bundled SFT adapter."""
    required: tuple[str, ...] = ()
    """Settings that have no default and must be given."""
    asks_voters: bool = False
    """It asks people or labelers for votes while it runs."""
    memory: MemoryProfile = field(default_factory=MemoryProfile)

    @property
    def label(self) -> str:
        """Its name on the page."""
        return self.title or self.name


STAGES: dict[str, Stage] = {}
"""All stages by name, in the order in which they are offered."""


def register(stage: Stage) -> Stage:
    """Add a stage to the table, or replace the one of the same name."""
    STAGES[stage.name] = stage
    return stage


def rows_sampled(config: RunConfig) -> int:
    """Responses that rejection sampling samples at a time: those to at least one prompt."""
    return max(getattr(config, "sample_batch", 0), getattr(config, "samples", 0))


register(Stage(
    SFT, SFTConfig, "fine-tune on demonstrations", "rlhf_engine.build.build_sft", lambda config: DEMONSTRATIONS,
    title="SFT", method="supervised fine-tuning", starts_from_sft=False))
register(Stage(
    REWARD, RewardConfig, "train a reward model on preferences", "rlhf_engine.build.build_reward",
    lambda config: PREFERENCES, title="Reward", method="reward model", makes="reward",
    memory=MemoryProfile(trained="reward", sampled=lambda config: 32, rows_per_example=2, logits=False,
                         bundled_tokens=113)))
register(Stage(
    DPO, DPOConfig, "align with DPO: from preferences alone", "rlhf_engine.build.build_dpo",
    lambda config: THUMBS if getattr(config, "loss", "") == "kto" else PREFERENCES, title="DPO", method="DPO",
    memory=MemoryProfile(sampled=lambda config: 32, rows_per_example=2, reference=True, bundled_tokens=113)))
register(Stage(
    PPO, PPOConfig, "align with PPO against a reward", "rlhf_engine.build.build_ppo", lambda config: PROMPTS,
    title="PPO", method="PPO", required=("reward",),
    memory=MemoryProfile(sampled=lambda config: config.batch_size, online=True, reference=True, reward_adapter=True,
                         bundled_tokens=BUNDLED_PROMPT_TOKENS)))
register(Stage(
    NLPO, NLPOConfig, "align with PPO among likely tokens alone (NLPO)", "rlhf_engine.build.build_nlpo",
    lambda config: PROMPTS, title="NLPO", method="NLPO", required=("reward",),
    memory=MemoryProfile(sampled=lambda config: config.batch_size, online=True, reference=True, reward_adapter=True,
                         masks=lambda config: getattr(config, "top_p", 1.0) < 1,
                         bundled_tokens=BUNDLED_PROMPT_TOKENS)))
register(Stage(
    GRPO, GroupConfig, "align by comparing the responses to a prompt (GRPO, RLOO, REINFORCE++)",
    "rlhf_engine.build.build_group", lambda config: PROMPTS, title="GRPO", method="GRPO", required=("reward",),
    memory=MemoryProfile(sampled=lambda config: config.batch_size, online=True, reference=True, reward_adapter=True,
                         bundled_tokens=BUNDLED_PROMPT_TOKENS)))
register(Stage(
    RFT, RFTConfig, "fine-tune on its own best responses, round after round", "rlhf_engine.build.build_rft",
    lambda config: PROMPTS, title="RFT", method="rejection-sampling fine-tuning", required=("reward",),
    memory=MemoryProfile(sampled=rows_sampled, online=True, reference=True, reward_adapter=True,
                         bundled_tokens=BUNDLED_PROMPT_TOKENS)))
register(Stage(
    TEACH, TeachConfig, "align with PPO while somebody votes", "rlhf_engine.build.build_teach", lambda config: PROMPTS,
    title="Teach", method="PPO, with votes that came while it ran", asks_voters=True,
    memory=MemoryProfile(sampled=lambda config: config.batch_size, online=True, reference=True, reads_base_states=True,
                         bundled_tokens=BUNDLED_PROMPT_TOKENS)))


def find_stage(name: str) -> Stage:
    """The row of a stage. Raises UserError for a name that is not in the table."""
    if not isinstance(name, str) or name not in STAGES:
        raise UserError(f"there is no stage {short_repr(name)}; it is one of {', '.join(STAGES)}")
    return STAGES[name]


def load_builder(stage: Stage) -> Callable:
    """The function that `Stage.build` names."""
    module, _, name = stage.build.rpartition(".")
    return getattr(importlib.import_module(module), name)


# -- settings of a stage --------------------------------------------------------------------------------------------

def check_names(stage: str, values: Iterable[str]) -> None:
    """Raises UserError for an unknown stage or setting. Old names of settings are known."""
    fields = configs.field_types(find_stage(stage).config)
    unknown = [name for name in values if configs.current_name(name) not in fields]
    if unknown:
        first = min(unknown, key=str)
        meant = closest(str(first), fields)
        mend = f"did you mean {meant}? Its settings are" if meant else "its settings are"
        raise UserError(f"{stage} has no setting {short_repr(first)}; {mend} {', '.join(fields)}")


def make_config(stage: str, values: dict) -> RunConfig:
    """The validated config of a stage, from settings by name. Raises UserError for an unknown stage or setting."""
    check_names(stage, values)
    return find_stage(stage).config(**configs.current_names(values)).validate()


def live_settings() -> tuple[str, ...]:
    """The settings that some stage lets change while it runs."""
    names = {}
    for stage in STAGES.values():
        names |= dict.fromkeys(configs.live_settings(stage.config))
    return tuple(names)


def default_adapter(config: RunConfig) -> str:
    """ADAPTER of a config with `auto` spelled out: the bundled SFT adapter or none."""
    return spell_out_adapter(config.adapter, config.model, config.stage)


def spell_out_adapter(adapter: str, model: str, stage: str) -> str:
    """ADAPTER, where `auto` is the bundled SFT adapter or none, as the model and the stage have it."""
    if adapter != "auto":
        return adapter
    return "bundled" if model == "bundled" and find_stage(stage).starts_from_sft else "none"


def starting_adapter(config: dict) -> str | None:
    """ADAPTER that a run started from, with `auto` spelled out; None for a stage that this version does not know."""
    if config.get("stage") not in STAGES or not {"model", "adapter"} <= config.keys():
        return None
    return spell_out_adapter(str(config["adapter"]), str(config["model"]), config["stage"])
