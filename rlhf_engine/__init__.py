"""The RLHF engine: SFT, reward model and PPO as adapters on one frozen base.

    from rlhf_engine import Backbone, PPO, PPOConfig, read_prompts

The names in `__all__` are the public API. Each is loaded when it is first used, so importing the package imports no
torch.
"""

import importlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf_engine.build import make_trainer
    from rlhf_engine.config import (
        DPOConfig,
        GroupConfig,
        NLPOConfig,
        PPOConfig,
        RewardConfig,
        RFTConfig,
        SFTConfig,
        TeachConfig,
    )
    from rlhf_engine.data.readers import preview, read_demonstrations, read_preferences, read_prompts, read_thumbs
    from rlhf_engine.data.tokenization import encode_example
    from rlhf_engine.errors import UserError
    from rlhf_engine.evaluation.best_of_curve import measure_best_of
    from rlhf_engine.evaluation.compare import compare, text_judge
    from rlhf_engine.export.checkpoint import export as export_checkpoint
    from rlhf_engine.feedback.events import Event
    from rlhf_engine.feedback.labelers import HumanLabeler, SimulatedLabeler
    from rlhf_engine.feedback.llm_judge import find_judge
    from rlhf_engine.feedback.scoring_functions import load_function
    from rlhf_engine.feedback.store import Store
    from rlhf_engine.loop import drive
    from rlhf_engine.model.backbone import Backbone
    from rlhf_engine.model.generation import Sampling, answer, sample
    from rlhf_engine.rollout.reward_functions import FunctionReward, RewardModel, score_all
    from rlhf_engine.rollout.rollout import Rollout
    from rlhf_engine.runs.control import RunControl
    from rlhf_engine.runs.folder import Run
    from rlhf_engine.runs.resolve import BUNDLED_ADAPTER
    from rlhf_engine.stages import Stage, make_config, register
    from rlhf_engine.teach.recorded_votes import RecordedLabeler
    from rlhf_engine.teach.trainer import Teach
    from rlhf_engine.trainers.base import Trainer
    from rlhf_engine.trainers.group import GroupLearner
    from rlhf_engine.trainers.nlpo import NLPO
    from rlhf_engine.trainers.ppo import PPO
    from rlhf_engine.trainers.preferences.dpo import DPO
    from rlhf_engine.trainers.preferences.kto import KTO
    from rlhf_engine.trainers.reward import RewardTrainer
    from rlhf_engine.trainers.rft.trainer import RFT
    from rlhf_engine.trainers.sft import SFT
    from rlhf_engine.worker.client import Worker

PUBLIC = {
    "build": ["make_trainer"],
    "config": ["DPOConfig", "GroupConfig", "NLPOConfig", "PPOConfig", "RFTConfig", "RewardConfig", "SFTConfig",
               "TeachConfig"],
    "data.readers": ["preview", "read_demonstrations", "read_preferences", "read_prompts", "read_thumbs"],
    "data.tokenization": ["encode_example"],
    "errors": ["UserError"],
    "evaluation.best_of_curve": ["measure_best_of"],
    "evaluation.compare": ["compare", "text_judge"],
    "export.checkpoint": ["export_checkpoint"],
    "feedback.events": ["Event"],
    "feedback.labelers": ["HumanLabeler", "SimulatedLabeler"],
    "feedback.llm_judge": ["find_judge"],
    "feedback.scoring_functions": ["load_function"],
    "feedback.store": ["Store"],
    "loop": ["drive"],
    "model.backbone": ["Backbone"],
    "model.generation": ["Sampling", "answer", "sample"],
    "rollout.reward_functions": ["FunctionReward", "RewardModel", "score_all"],
    "rollout.rollout": ["Rollout"],
    "runs.control": ["RunControl"],
    "runs.folder": ["Run"],
    "runs.resolve": ["BUNDLED_ADAPTER"],
    "stages": ["Stage", "make_config", "register"],
    "teach.recorded_votes": ["RecordedLabeler"],
    "teach.trainer": ["Teach"],
    "trainers.base": ["Trainer"],
    "trainers.group": ["GroupLearner"],
    "trainers.nlpo": ["NLPO"],
    "trainers.preferences.dpo": ["DPO"],
    "trainers.preferences.kto": ["KTO"],
    "trainers.ppo": ["PPO"],
    "trainers.reward": ["RewardTrainer"],
    "trainers.rft.trainer": ["RFT"],
    "trainers.sft": ["SFT"],
    "worker.client": ["Worker"],
}
"""Public names, by the module that has them."""
OWN_NAMES = {"export_checkpoint": "export"}
"""Names that their module calls otherwise: `export` is also the name of a sub-package."""
MODULE_OF = {name: module for module, names in PUBLIC.items() for name in names}
__all__ = sorted(MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]  # the names above, loaded late

# On some CPUs bitsandbytes warns about an optional kernel package. Its own kernels are used; nothing is wrong.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def __getattr__(name: str):
    if name not in MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{MODULE_OF[name]}")
    globals()[name] = getattr(module, OWN_NAMES.get(name, name))
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
