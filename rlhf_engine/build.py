"""From a config to a trainer: data, base, roles, and what scores or votes.

The command line and the worker both begin here. A stage is built in two steps. The first reads data and checks all
input, so that bad input is refused before a model is loaded. It returns the second, which takes the loaded base.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from rlhf_engine.config import (
    DPOConfig,
    GroupConfig,
    NLPOConfig,
    PolicyConfig,
    PPOConfig,
    RewardConfig,
    RFTConfig,
    RunConfig,
    SFTConfig,
    TeachConfig,
)
from rlhf_engine.data.batches import split_held_out
from rlhf_engine.data.readers import Rows, read_demonstrations, read_prompts
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, noop
from rlhf_engine.feedback.labelers import RANDOM, HumanLabeler, RandomLabeler, SimulatedLabeler
from rlhf_engine.feedback.llm_judge import find_judge, is_judge
from rlhf_engine.feedback.scoring_functions import built_in, find_function, is_function, load_function, score_text
from rlhf_engine.feedback.store import Store
from rlhf_engine.feedback.training_rows import read_training_rows
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import FunctionReward, RewardFunction, RewardModel
from rlhf_engine.runs.damage import explain_damage
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import resolve_adapter, resolve_reward
from rlhf_engine.stages import default_adapter, find_stage, load_builder
from rlhf_engine.teach.recorded_votes import is_replay, recorded_labeler
from rlhf_engine.teach.trainer import Labeler, Teach
from rlhf_engine.trainers.group import GroupLearner
from rlhf_engine.trainers.interface import AnyTrainer
from rlhf_engine.trainers.nlpo import NLPO
from rlhf_engine.trainers.ppo import PPO
from rlhf_engine.trainers.preferences.dpo import DPO
from rlhf_engine.trainers.preferences.kto import KTO
from rlhf_engine.trainers.reward import RewardTrainer
from rlhf_engine.trainers.rft.trainer import RFT
from rlhf_engine.trainers.sft import SFT

HELD_OUT = 128
"""Prompts, at most, on which `teach` is measured."""
Finish = Callable[[Backbone], AnyTrainer]
"""The second step of building a stage: from the base, with the starting adapter as role `policy`, to a trainer."""


C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class Inputs(Generic[C]):
    """What the builder of a stage gets."""

    config: C
    rows: Rows
    """The training data, read as the kind that the stage reads."""
    checkpoint: Path | None = None
    """A resumed run's checkpoint."""
    home: Path | None = None
    """The workspace whose store has the votes of people."""
    labeler: Labeler | None = None
    """Votes in the place of the one that the config names."""
    on_microbatch: Callable[[], None] = noop


def make_trainer(config: RunConfig, *, backbone: Backbone | None = None, checkpoint: Path | None = None,
                 home: Path | None = None, labeler: Labeler | None = None, votes_upto: int | None = None,
                 on_microbatch: Callable[[], None] = noop) -> AnyTrainer:
    """Read the data, load the base and make the roles of a stage; with `checkpoint`, go on from there.

    `home` is the workspace whose store has the votes of people, which a config with the labeler `person` needs.
    `labeler` votes in the place of the one that the config names. Where the data is a store of votes, its events up to
    the number `votes_upto` are read, or all.

    Bad input is refused here, before a run folder is touched. Raises UserError. A `backbone` that holds the config's
    model already is used instead of loading one; it must have no roles.
    """
    stage = find_stage(config.stage)
    rows = read_training_rows(config.data, stage.reads(config), subset=config.subset or None,
                              split=config.split or None, limit=config.limit or None, model=config.model,
                              votes_upto=votes_upto)
    adapter = starting_folder(config, checkpoint)
    finish = load_builder(stage)(Inputs(config, rows, checkpoint, home, labeler, on_microbatch))
    backbone = backbone or Backbone.load(config.model, dtype=config.dtype, device=config.device)
    if adapter:
        backbone.load_role("policy", adapter, head=False)
    trainer = finish(backbone)
    trainer.data_notes = rows.remarks + trainer.data_notes
    if checkpoint is not None:
        with explain_damage(checkpoint, "remove this checkpoint to go on from an earlier one, or start a new run"):
            trainer.load(checkpoint)
    return trainer


def starting_folder(config: RunConfig, checkpoint: Path | None) -> Path | None:
    """The PEFT folder that the role `policy` starts from; None for the bare base.

    A resumed run reads its own checkpoint, because what it started from may be gone or may have changed. The policy's
    folder comes first: in runs of earlier versions the reference's lacks options of the adapter, such as rsLoRA's.
    """
    adapter = default_adapter(config)
    if checkpoint is None:
        return resolve_adapter(adapter, config.model)
    if adapter in ("none", ""):
        return None
    folders = (checkpoint / role for role in ("policy", "reference", "reward"))
    return next((folder for folder in folders if folder.exists()), None)


# -- the stages ------------------------------------------------------------------------------------------------------

def build_sft(inputs: Inputs[SFTConfig]) -> Finish:
    return lambda backbone: SFT(backbone, inputs.rows, inputs.config, on_microbatch=inputs.on_microbatch)


def build_reward(inputs: Inputs[RewardConfig]) -> Finish:
    return lambda backbone: RewardTrainer(backbone, inputs.rows, inputs.config, on_microbatch=inputs.on_microbatch)


def build_dpo(inputs: Inputs[DPOConfig]) -> Finish:
    learner = KTO if inputs.config.loss == "kto" else DPO
    return lambda backbone: learner(backbone, inputs.rows, inputs.config, on_microbatch=inputs.on_microbatch)


def build_ppo(inputs: Inputs[PPOConfig]) -> Finish:
    return build_online(inputs, PPO)


def build_nlpo(inputs: Inputs[NLPOConfig]) -> Finish:
    return build_online(inputs, NLPO)


def build_group(inputs: Inputs[GroupConfig]) -> Finish:
    return build_online(inputs, GroupLearner)


def build_online(inputs: Inputs[Any], learner: type[PPO] | type[GroupLearner]) -> Finish:
    """A learner that samples its own responses and has them scored by `reward`."""
    config = inputs.config
    source = find_reward(config.reward, inputs.rows[0], inputs.checkpoint)
    texts = read_ptx_texts(config)

    def finish(backbone: Backbone) -> PPO | GroupLearner:
        reward = load_reward(source, backbone, inputs)
        trainer = learner(backbone, inputs.rows, reward, config, ptx=texts, on_microbatch=inputs.on_microbatch)
        trainer.data_notes = texts.remarks + trainer.data_notes
        return trainer
    return finish


def build_rft(inputs: Inputs[RFTConfig]) -> Finish:
    config = inputs.config
    source = find_reward(config.reward, inputs.rows[0], inputs.checkpoint)

    def finish(backbone: Backbone) -> RFT:
        return RFT(backbone, inputs.rows, load_reward(source, backbone, inputs), config,
                   on_microbatch=inputs.on_microbatch)
    return finish


def build_teach(inputs: Inputs[TeachConfig]) -> Finish:
    config = inputs.config
    texts = read_ptx_texts(config)
    labeler = inputs.labeler or find_labeler(config, inputs.rows[0], inputs.home)

    def finish(backbone: Backbone) -> Teach:
        prompts, held_out = hold_out(inputs.rows, config)
        trainer = Teach(backbone, prompts, labeler, config, held_out=held_out, ptx=texts,
                        on_microbatch=inputs.on_microbatch)
        trainer.data_notes = texts.remarks + trainer.data_notes
        return trainer
    return finish


def read_ptx_texts(config: PolicyConfig) -> Rows:
    """The text that PPO mixes in (`ptx_data`); no rows where the config mixes none in.

    Raises UserError that names the flags of the mix.
    """
    if not config.ptx_coef:
        return Rows()
    try:
        return read_demonstrations(config.ptx_data, subset=config.ptx_subset or None, split=config.ptx_split or None,
                                   model=config.model)
    except UserError as error:
        message = str(error)
        for flag, ours in (("--subset", "--ptx-subset"), ("--split", "--ptx-split"), ("--data", "--ptx-data")):
            message = message.replace(flag, ours)
        raise UserError(f"--ptx-data {message}") from None


def find_reward(spec: str, prompt: Prompt, checkpoint: Path | None) -> FunctionReward | Path:
    """The reward that SPEC names: a scoring function, or the folder of a reward adapter.

    A function is tried on `prompt` with an empty response, which a policy may well give. A folder that has the name of
    a built-in one is meant.
    """
    function = None if Path(spec).exists() else built_in(spec)
    if is_function(spec):
        function = load_function(spec)
    if function:
        score_text(function, prompt, "")
        return FunctionReward(function)
    return checkpoint / "reward" if checkpoint else resolve_reward(spec, "--reward")


def load_reward(source: FunctionReward | Path, backbone: Backbone, inputs: Inputs[Any]) -> RewardFunction:
    """What scores a rollout: `source` itself, or the reward model in its folder, which becomes the role `reward`."""
    if isinstance(source, FunctionReward):
        return source
    backbone.load_role("reward", source, head=True)
    return RewardModel(backbone, batch=inputs.config.batch_size, on_microbatch=inputs.on_microbatch)


def find_labeler(config: TeachConfig, prompt: Prompt, home: Path | None = None) -> Labeler:
    """The labeler of a config. A scoring function is tried on `prompt` with an empty response."""
    if config.labeler == "person":
        if home is None:
            raise UserError("--labeler person needs a workspace, whose store has the votes: pass its folder as `home`")
        return HumanLabeler(Run(config.output), Store(home / "feedback.sqlite"))
    if is_replay(config.labeler):
        return recorded_labeler(config.labeler, run_files=True)
    if is_judge(config.labeler):
        return find_judge(config.labeler, config.instruction, config.seed, device=config.device)
    if config.labeler == RANDOM:
        return RandomLabeler(config.seed)
    function = find_function(config.labeler)
    score_text(function, prompt, "")
    return SimulatedLabeler(function, noise=config.noise, seed=config.seed)


def hold_out(rows: list[Prompt], config: RunConfig) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to train on, prompts for the report).

    The bundled data has prompts that are held out. Of other data a tenth is, 128 prompts at most.
    """
    if config.data == "bundled":
        return list(rows), list(read_prompts("bundled-heldout", model=config.model))[:HELD_OUT]
    share = min(0.1, HELD_OUT / len(rows))
    kept, held_out = split_held_out(list(rows), share, config.seed, key=str)
    return kept, held_out or kept
