"""From a config to a trainer, and from a trainer to a run folder. The command line and the worker are both made of these."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

from rlhf_engine.backbone import Backbone
from rlhf_engine.config import PPOConfig, RewardConfig, RunConfig, SFTConfig, TeachConfig, UserError
from rlhf_engine.data import read_demonstrations, read_preferences, read_prompts
from rlhf_engine.encoding import Prompt
from rlhf_engine.generate import nothing
from rlhf_engine.labelers import FunctionReward, Simulated, find_function, is_function, load_function, score_text
from rlhf_engine.models import first_line, resolve_adapter, resolve_reward
from rlhf_engine.ppo import PPO, Diverged
from rlhf_engine.reward import Reward, RewardModel
from rlhf_engine.runs import Run
from rlhf_engine.sft import SFT
from rlhf_engine.teach import Teach
from rlhf_engine.training import Trainer, out_of_memory, split_held_out

HELD_OUT = 128
"""Prompts, at most, on which `teach` is measured."""


def make_trainer(config: RunConfig, *, backbone: Backbone | None = None, checkpoint: Path | None = None,
                 breathe: Callable[[], None] = nothing) -> Trainer:
    """Read the data, load the base and make the roles of a stage; with `checkpoint`, go on from there.

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
    labeler = find_labeler(config, rows[0]) if isinstance(config, TeachConfig) else None
    backbone = backbone or Backbone.load(config.model, dtype=config.dtype, device=config.device)
    if adapter:
        backbone.load_role("policy", adapter, head=False)
    if isinstance(config, SFTConfig):
        trainer = SFT(backbone, rows, config, breathe=breathe)
    elif isinstance(config, RewardConfig):
        trainer = Reward(backbone, rows, config, breathe=breathe)
    elif isinstance(config, TeachConfig):
        prompts, held_out = hold_out(rows, config)
        trainer = Teach(backbone, prompts, labeler, config, held_out=held_out, breathe=breathe)
    else:
        if isinstance(reward, Path):
            backbone.load_role("reward", reward, head=True)
            reward = RewardModel(backbone, batch=config.batch_size, breathe=breathe)
        trainer = PPO(backbone, rows, reward, config, breathe=breathe)
    trainer.notes = rows.notes + trainer.notes
    if checkpoint is not None:
        trainer.load(checkpoint)
    return trainer


def starting_adapter(config: RunConfig) -> str:
    """`auto` spelled out: PPO and reward training on the bundled model start from its SFT adapter, all else from none."""
    if config.adapter != "auto":
        return config.adapter
    return "bundled" if config.model == "bundled" and config.stage != "sft" else "none"


def find_reward(config: PPOConfig, prompt: Prompt, checkpoint: Path | None) -> FunctionReward | Path:
    """The reward of a PPO config, checked before a model is loaded: a scoring function, or the folder of a reward adapter.

    The function is tried with `prompt` and an empty response, which a policy may well give.
    """
    if is_function(config.reward):
        score_text(function := load_function(config.reward), prompt, "")
        return FunctionReward(function)
    return checkpoint / "reward" if checkpoint else resolve_reward(config.reward, "--reward")


def find_labeler(config: TeachConfig, prompt: Prompt) -> Simulated:
    """The labeler of a config, tried with `prompt` and an empty response before a model is loaded."""
    score_text(function := find_function(config.labeler), prompt, "")
    return Simulated(function, noise=config.noise, seed=config.seed)


def hold_out(rows: list[Prompt], config: TeachConfig) -> tuple[list[Prompt], list[Prompt]]:
    """(prompts to train on, prompts for the report): of the bundled data its held-out ones, of others a tenth, 128 at most."""
    if config.data == "bundled":
        return list(rows), list(read_prompts("bundled-heldout"))[:HELD_OUT]
    share = min(0.1, HELD_OUT / len(rows))
    kept, held_out = split_held_out(list(rows), share, config.seed, key=str)
    return kept, held_out or kept


class Control:
    """What is asked of a running trainer between two steps: go on, pause, stop (and save), or discard."""

    def __init__(self):
        self.wish = "run"

    def __call__(self) -> str:
        return self.wish


def drive(trainer: Trainer, run: Run, *, control: Callable[[], str] = Control(), progress: bool = True) -> str:
    """Run a trainer to its end, writing the run folder; returns the final state: done, stopped, or discarded.

    An exception leaves the state `failed` with the reason and an advice, and goes on to the caller.
    """
    for note in trainer.notes if trainer.step == 0 else []:
        run.note("data", text=note)
    if trainer.step == 0 and not trainer.config.learning_rate:
        run.note("fitted", learning_rate=trainer.rate, width=trainer.backbone.hidden_size)
    run.set_status(state="running", total_steps=trainer.total_steps, step=trainer.step, error="", advice="")
    bar = tqdm(total=trainer.total_steps, initial=trainer.step, desc=trainer.config.stage, disable=not progress, file=sys.stderr)
    state, saved = "done", trainer.step
    try:
        while trainer.step < trainer.total_steps:
            wish = wait_while_paused(trainer, run, control)
            if wish in ("stop", "discard"):
                state = "stopped" if wish == "stop" else "discarded"
                break
            metrics = next(trainer)
            write_step(trainer, run, metrics)
            bar.set_postfix_str(headline(metrics), refresh=False)
            bar.update()
            if trainer.step % trainer.config.checkpoint_every == 0:
                saved = save(trainer, run)
        if state == "discarded":
            run.discard()
            return state
        if saved < trainer.step:
            save(trainer, run)
        run.write_report(trainer.report() | {"steps": trainer.step, "peak_memory_mb": peak_memory_mb()})
        run.set_status(state=state, step=trainer.step)
        return state
    except BaseException as error:
        run.set_status(state="failed", error=f"{type(error).__name__}: {first_line(error)}", advice=advice(error))
        raise
    finally:
        bar.close()


def wait_while_paused(trainer: Trainer, run: Run, control: Callable[[], str]) -> str:
    if (wish := control()) != "pause":
        return wish
    run.set_status(state="paused", step=trainer.step)
    while (wish := control()) == "pause":
        trainer.breathe()
        time.sleep(0.05)
    run.set_status(state="running")
    return wish


def write_step(trainer: Trainer, run: Run, metrics: dict) -> None:
    for event in trainer.events:
        run.note(event.pop("event"), **event)
    run.add_samples(trainer.samples)
    run.log(metrics)
    run.set_status(state="running", step=trainer.step)


def save(trainer: Trainer, run: Run) -> int:
    with run.checkpoint(trainer.step, keep=trainer.config.keep_checkpoints) as folder:
        trainer.save(folder)
    return trainer.step


HEADLINES = {"loss/train": "loss", "accuracy/held_out": "held-out accuracy", "objective/scores": "score", "objective/kl": "kl"}


def headline(metrics: dict) -> str:
    return "  ".join(f"{short} {metrics[name]:.3f}" for name, short in HEADLINES.items() if name in metrics)


def advice(error: BaseException) -> str:
    """What a user can do about a failed run, in one sentence."""
    if out_of_memory(error):
        return "Lower micro_batch or max_new_tokens, use dtype nf4, or switch gradient_checkpointing on; then resume."
    if isinstance(error, Diverged):
        return "Lower learning_rate or raise kl_coef and start again from the last good checkpoint."
    if isinstance(error, UserError):
        return "Mend the input, then resume."
    if isinstance(error, KeyboardInterrupt):
        return "Resume it to go on from the last checkpoint."
    return "Resume from the last checkpoint; if it fails again, report the error with the run's config.yaml."


def peak_memory_mb() -> int:
    """Most memory this process held: of the GPU where one is used, else of the whole process."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() >> 20
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset >> 20
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> (20 if sys.platform == "darwin" else 10)


def stop_on_signals(control: Control) -> None:
    """First Ctrl-C or SIGTERM: finish the step, save, stop. A second one ends at once."""
    def ask(number, frame):
        if control.wish == "stop":
            raise KeyboardInterrupt
        control.wish = "stop"
        os.write(2, b"\nstopping after this step; again to end at once\n")  # print could come in the middle of another print
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, ask)
        signal.signal(signal.SIGTERM, ask)
