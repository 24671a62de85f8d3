"""Why a run failed, and what the user can do about it."""

from rlhf_engine.config import RunConfig
from rlhf_engine.errors import NotFinite, UserError, first_line
from rlhf_engine.files import disk_fails, disk_is_full
from rlhf_engine.model.batching import out_of_memory
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import find_stage
from rlhf_engine.trainers.base import Diverged

FAILURE_HINTS = {
    "out_of_memory": "Lower micro_batch, or max_new_tokens where the stage samples, use dtype nf4, or switch "
                     "gradient_checkpointing on; then resume.",
    "disk_full": "Make room on the disk, then resume: the last checkpoint is whole.",
    "disk_fails": "See why the disk cannot be used: it may be read-only, away or broken. Then resume.",
    "diverged": "Lower learning_rate or raise kl_coef and start again from the last good checkpoint.",
    "not_finite": "Start again with a lower learning_rate: to resume would only repeat it.",
    "input": "Correct the input, then resume; to change a setting, start a new run.",
    "interrupted": "Resume it to go on from the last checkpoint.",
    "unknown": "Resume from the last checkpoint; if it fails again, report the error with the run's config.yaml.",
}
"""Why a run failed -> what the user can do about it, in one sentence."""


def failure_kind(error: BaseException) -> str:
    """Why a run failed, as a key of `FAILURE_HINTS`."""
    if out_of_memory(error):
        return "out_of_memory"
    if disk_is_full(error):
        return "disk_full"
    if disk_fails(error):
        return "disk_fails"
    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, NotFinite):
        return "not_finite"
    if isinstance(error, UserError):
        return "input"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "unknown"


def failure_hint(error: BaseException, run: Run | None = None, config: RunConfig | None = None) -> str:
    """What a user can do about a failed run, in a sentence or two.

    With `run` and `config`, the advice on numbers that are not finite names the rate and the last good checkpoint.
    """
    kind = failure_kind(error)
    if kind == "not_finite" and run and config:
        return not_finite_hint(run, config)
    return FAILURE_HINTS[kind]


def not_finite_hint(run: Run, config: RunConfig) -> str:
    """What to do after a number that was not finite. To resume repeats it, so a new run has to differ."""
    rate = f" than {config.learning_rate:g}" if config.learning_rate else ""
    hint = (f"To resume would only repeat it: start a new run with a lower --learning-rate{rate}, or with settings "
            "nearer to their defaults.")
    checkpoint = run.last_checkpoint()
    if checkpoint and find_stage(config.stage).makes == "policy":
        hint += f" --adapter {checkpoint} begins at its last good checkpoint."
    return hint


def record_failure(run: Run, error: BaseException, config: RunConfig) -> None:
    """Set the state `failed`, with the reason and an advice. Raises nothing, even where the disk is full."""
    run.fail(f"{type(error).__name__}: {first_line(error)}", advice=failure_hint(error, run, config),
             advice_kind=failure_kind(error))
