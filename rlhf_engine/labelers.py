"""Who says how good a response is: so far a scoring function from a file, named on the command line and nowhere else."""

import importlib.util
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_engine.config import UserError
from rlhf_engine.encoding import Prompt
from rlhf_engine.models import first_line

if TYPE_CHECKING:
    import torch

    from rlhf_engine.rollout import Rollout


def is_function(spec: str) -> bool:
    """Whether SPEC reads FILE.py:FUNCTION (and is not the path of a run folder)."""
    file, _, name = spec.rpartition(":")
    return file.endswith(".py") and name.isidentifier()


def load_function(spec: str) -> Callable[[str, str], float]:
    """`FILE.py:FUNCTION`, a function(prompt, response) -> number. The file is run: never call this with a visitor's words.

    Raises UserError for a missing file or function and for a file that fails to run.
    """
    file, _, name = spec.rpartition(":")
    if not Path(file).is_file():
        raise UserError(f"{file}: there is no such file; give FILE.py:FUNCTION")
    found = importlib.util.spec_from_file_location(f"scoring_{Path(file).stem}", file)
    module = sys.modules[found.name] = importlib.util.module_from_spec(found)  # dataclasses look their module up there
    try:
        found.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a user's file may raise
        raise UserError(f"{file}: fails to run ({type(error).__name__}: {first_line(error)})") from None
    if not callable(getattr(module, name, None)):
        raise UserError(f"{file}: defines no function {name}; give FILE.py:FUNCTION")
    return getattr(module, name)


def prompt_text(prompt: Prompt) -> str:
    """What a scoring function is shown of a prompt: the text, of a conversation the user's last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def score_text(function: Callable[[str, str], float], prompt: Prompt, response: str) -> float:
    """One score. Raises UserError with prompt and response where the function fails or gives no finite number."""
    text = prompt_text(prompt)
    try:
        score = float(function(text, response))
    except Exception as error:
        raise UserError(f"{function.__name__} fails with {type(error).__name__} ({first_line(error)}) on prompt {text[:60]!r} "
                        f"and response {response[:60]!r}; mend the function") from None
    if not math.isfinite(score):
        raise UserError(f"{function.__name__} gives {score} on prompt {text[:60]!r} and response {response[:60]!r}; a score must be finite")
    return score


class FunctionReward:
    """A scoring function as PPO takes a reward: `reward(rollout) -> scores [B]`."""

    def __init__(self, function: Callable[[str, str], float]):
        self.function = function

    def __call__(self, rollout: "Rollout") -> "torch.Tensor":
        import torch
        return torch.tensor([score_text(self.function, p, r) for p, r in zip(rollout.prompts, rollout.responses)])
