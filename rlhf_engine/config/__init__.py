"""The typed settings of each stage. Command line, YAML, the form on the page and the docs all come from them.

The string below a field is its documentation. Any stage's settings are a subclass of RunConfig.
"""

from rlhf_engine.config.examples import DPOConfig, RewardConfig, SFTConfig
from rlhf_engine.config.fields import (
    LARGEST,
    LARGEST_SEED,
    LONGEST,
    MOST_ROWS,
    MOST_TOKENS,
    PATHS,
    bounded,
    check_text,
    choices,
    coerce,
    current_name,
    current_names,
    docs,
    field_types,
    flag,
    live_settings,
    old_names,
)
from rlhf_engine.config.policy import (
    KL_PER_TOKEN,
    ActorCriticConfig,
    GroupConfig,
    NLPOConfig,
    PolicyConfig,
    PPOConfig,
)
from rlhf_engine.config.rft import RFTConfig
from rlhf_engine.config.run import LENGTH_FIELDS, RunConfig, check_length, checkpoint_period, to_dict
from rlhf_engine.config.teach import GROUP_LEARNERS, LEARNER_TITLES, TeachConfig

__all__ = [
    "ActorCriticConfig", "DPOConfig", "GROUP_LEARNERS", "GroupConfig", "KL_PER_TOKEN", "LARGEST", "LARGEST_SEED",
    "LEARNER_TITLES", "LENGTH_FIELDS", "LONGEST", "MOST_ROWS", "MOST_TOKENS", "NLPOConfig", "PATHS", "PPOConfig",
    "PolicyConfig", "RFTConfig", "RewardConfig", "RunConfig", "SFTConfig", "TeachConfig", "bounded", "check_length",
    "check_text", "checkpoint_period", "choices", "coerce", "current_name", "current_names", "docs", "field_types",
    "flag", "live_settings", "old_names", "to_dict",
]
