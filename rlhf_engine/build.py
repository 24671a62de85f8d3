"""From a config to a trainer: data, base, roles, and who scores or votes. The command line and the worker both begin here."""

from collections.abc import Callable
from pathlib import Path

from rlhf_engine.config import PolicyConfig, PPOConfig, RewardConfig, RunConfig, SFTConfig, TeachConfig
from rlhf_engine.data.batches import split_held_out
from rlhf_engine.data.readers import Rows, read_demonstrations, read_preferences, read_prompts
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, noop
from rlhf_engine.feedback.labelers import HumanLabeler, SimulatedLabeler
from rlhf_engine.feedback.llm_judge import find_judge, is_judge
from rlhf_engine.feedback.scoring_functions import find_function, is_function, load_function, score_text
from rlhf_engine.feedback.store import Store
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import FunctionReward, RewardModel
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.resolve import resolve_adapter, resolve_reward, starting_adapter
from rlhf_engine.teach.trainer import Labeler, Teach
from rlhf_engine.trainers.base import Trainer
from rlhf_engine.trainers.ppo import PPO
from rlhf_engine.trainers.reward import RewardTrainer
from rlhf_engine.trainers.sft import SFT

HELD_OUT = 128
"""Prompts, at most, on which `teach` is measured."""


def make_trainer(config: RunConfig, *, backbone: Backbone | None = None, checkpoint: Path | None = None,
                 home: Path | None = None, labeler: Labeler | None = None, on_microbatch: Callable[[], None] = noop) -> Trainer:
    """Read the data, load the base and make the roles of a stage; with `checkpoint`, go on from there.

    `home` is the workspace whose store has the votes of people, which a config with the labeler `person` needs. `labeler` votes in the
    place of the one that the config names.

    Everything that can be wrong with the input is found here, before a run folder is touched. Raises UserError.
    A `backbone` that holds the config's model already is used instead of loading one; it must have no roles.
    """
    source = {"subset": config.subset or None, "split": config.split or None, "limit": config.limit or None}
    read = {"sft": read_demonstrations, "reward": read_preferences}.get(config.stage, read_prompts)
    rows = read(config.data, **source)
    adapter = starting_adapter(config)
    if checkpoint is None:
        adapter = resolve_adapter(adapter, config.model)
    else:  # a resumed run stands on its own: what it started from may be gone, or have moved on
        adapter = next((folder for folder in (checkpoint / "reference", checkpoint / "policy", checkpoint / "reward")
                        if folder.exists()), None) if adapter not in ("none", "") else None
    reward = find_reward(config, rows[0], checkpoint) if isinstance(config, PPOConfig) else None
    texts = read_texts(config) if isinstance(config, PolicyConfig) else Rows()
    if isinstance(config, TeachConfig):
        labeler = labeler or find_labeler(config, rows[0], home)
    backbone = backbone or Backbone.load(config.model, dtype=config.dtype, device=config.device)
    if adapter:
        backbone.load_role("policy", adapter, head=False)
    if isinstance(config, SFTConfig):
        trainer = SFT(backbone, rows, config, on_microbatch=on_microbatch)
    elif isinstance(config, RewardConfig):
        trainer = RewardTrainer(backbone, rows, config, on_microbatch=on_microbatch)
    elif isinstance(config, TeachConfig):
        prompts, held_out = hold_out(rows, config)
        trainer = Teach(backbone, prompts, labeler, config, held_out=held_out, ptx=texts, on_microbatch=on_microbatch)
    else:
        if isinstance(reward, Path):
            backbone.load_role("reward", reward, head=True)
            reward = RewardModel(backbone, batch=config.batch_size, on_microbatch=on_microbatch)
        trainer = PPO(backbone, rows, reward, config, ptx=texts, on_microbatch=on_microbatch)
    trainer.data_notes = rows.notes + texts.notes + trainer.data_notes
    if checkpoint is not None:
        trainer.load(checkpoint)
    return trainer


def read_texts(config: PolicyConfig) -> Rows:
    """What PPO mixes in (`ptx_data`), none where it mixes nothing in. Raises UserError that names the flags."""
    if not config.ptx_coef:
        return Rows()
    try:
        return read_demonstrations(config.ptx_data, subset=config.ptx_subset or None, split=config.ptx_split or None)
    except UserError as error:
        said = str(error).replace("--subset", "--ptx-subset").replace("--split", "--ptx-split")
        raise UserError(f"--ptx-data {said}") from None


def find_reward(config: PPOConfig, prompt: Prompt, checkpoint: Path | None) -> FunctionReward | Path:
    """The reward of a PPO config, checked before a model is loaded: a scoring function, or the folder of a reward adapter.

    The function is tried with `prompt` and an empty response, which a policy may well give.
    """
    if is_function(config.reward):
        score_text(function := load_function(config.reward), prompt, "")
        return FunctionReward(function)
    return checkpoint / "reward" if checkpoint else resolve_reward(config.reward, "--reward")


def find_labeler(config: TeachConfig, prompt: Prompt, home: Path | None = None) -> Labeler:
    """The labeler of a config; a scoring function is tried with `prompt` and an empty response before a model is loaded."""
    if config.labeler == "person":
        if home is None:
            raise UserError("--labeler person needs a workspace, whose store has the votes: pass its folder as `home` to make_trainer")
        return HumanLabeler(Run(config.output), Store(home / "feedback.sqlite"))
    if is_judge(config.labeler):
        return find_judge(config.labeler, config.instruction, config.seed, device=config.device)
    score_text(function := find_function(config.labeler), prompt, "")
    return SimulatedLabeler(function, noise=config.noise, seed=config.seed)


def hold_out(rows: list[Prompt], config: TeachConfig) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to train on, prompts for the report): of the bundled data its held-out ones, of others a tenth, 128 at most."""
    if config.data == "bundled":
        return list(rows), list(read_prompts("bundled-heldout"))[:HELD_OUT]
    share = min(0.1, HELD_OUT / len(rows))
    kept, held_out = split_held_out(list(rows), share, config.seed, key=str)
    return kept, held_out or kept
