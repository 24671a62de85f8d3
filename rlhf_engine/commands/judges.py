"""The judges of a command: scorers, and chat models that are asked in both orders.

torch is imported late, so that what can be refused without a model is refused at once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from rlhf_engine.commands.scorers import SCORES, load_scorer
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.llm_judge import find_judge, is_judge

if TYPE_CHECKING:
    from rlhf_engine.evaluation.judging import Referee
    from rlhf_engine.model.backbone import Backbone

JUDGES = f"{SCORES}; or a chat model, judge=MODEL or judge=MODEL@URL"
"""How a judge is written, for help texts."""
INSTRUCTION_HELP = ("what a chat model is told to prefer, such as \"the happier story\" (the more helpful, honest and "
                    "harmless answer)")


def load_judges(specs: Sequence[str], *, instruction: str = "", seed: int = 0, device: str = "auto",
                prompt: Prompt | None = None) -> "list[Callable[[Backbone], Referee]]":
    """For each SPEC a function that makes the judge from a backbone, in which reward models become roles.

    Files and folders are checked now, and chat models of this machine are loaded. Arguments as for `load_scorer` and
    `find_judge`. Raises UserError.
    """
    if len(set(specs)) < len(specs):
        twice = next(spec for spec in specs if list(specs).count(spec) > 1)
        raise UserError(f"--judge names {twice} twice: name each judge once")
    if instruction and not any(map(is_judge, specs)):
        raise UserError("--instruction is for a chat model, and there is none: leave it out, or add --judge "
                        "judge=MODEL")
    scorers = [None if is_judge(spec) else checked_scorer(spec, f"judge{i}" if i else "reward", prompt)
               for i, spec in enumerate(specs)]
    makers = []
    for spec, scorer in zip(specs, scorers):
        if scorer is None:
            makers.append(partial(_chat_model, spec, find_judge(spec, instruction, seed, device=device)))
        else:
            makers.append(partial(_scorer, spec, scorer))
    return makers


def checked_scorer(spec: str, role: str, prompt: Prompt | None) -> Callable:
    """`load_scorer`, whose message about a SPEC that is none names chat models, too."""
    try:
        return load_scorer(spec, "--judge", role=role, prompt=prompt)
    except UserError as error:
        raise UserError(str(error).replace("or FILE.py:FUNCTION", "FILE.py:FUNCTION or judge=MODEL")) from None


def _chat_model(spec: str, judge, backbone: "Backbone") -> "Referee":
    from rlhf_engine.evaluation.judging import chat_model_referee
    return chat_model_referee(spec, judge)


def _scorer(spec: str, make_scores: Callable, backbone: "Backbone") -> "Referee":
    from rlhf_engine.evaluation.compare import score_referee
    return score_referee(spec, make_scores(backbone))
