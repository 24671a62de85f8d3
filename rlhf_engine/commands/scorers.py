"""What scores the responses for a command: a reward run, or a scoring function.

torch is imported late, so that what can be refused without a model is refused at once.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.llm_judge import is_judge
from rlhf_engine.feedback.scoring_functions import BUILT_IN, built_in, is_function, load_function, score_text
from rlhf_engine.runs.resolve import resolve_reward

if TYPE_CHECKING:
    from rlhf_engine.evaluation.compare import ScoreFunction
    from rlhf_engine.model.backbone import Backbone

SCORES = "a reward run, FILE.py:FUNCTION, sentiment, short, long, dialogue or keyword=WORD"
"""How a scorer is written, for help texts."""
BATCH = 32
"""Rows that a reward model scores at a time."""


def load_scorer(spec: str, flag: str, role: str = "reward",
                prompt: Prompt | None = None) -> "Callable[[Backbone], ScoreFunction]":
    """A function that makes the scores of SPEC from a backbone, in which a reward model becomes the role `role`.

    File or folder are checked now, before a model is loaded, and a function is tried on a `prompt` with an empty
    response, which a policy may well give. Raises UserError, which names `flag`.
    """
    if is_judge(spec):
        raise UserError(f"{flag} is {spec}, which compares responses and scores none: name a reward run, "
                        f"{', '.join(BUILT_IN)}, keyword=WORD or FILE.py:FUNCTION")
    function = built_in(spec)
    if function is None and is_function(spec):
        function = load_function(spec)
    if function is not None:
        if prompt is not None:
            score_text(function, prompt, "")
        return partial(_text_scorer, partial(score_text, function))
    try:
        folder = resolve_reward(spec, flag)
    except UserError as error:
        names = f"{', '.join(BUILT_IN)}, keyword=WORD or FILE.py:FUNCTION"
        raise UserError(str(error).replace("or FILE.py:FUNCTION", names)) from None
    return partial(_model_scorer, folder, role)


def _text_scorer(score: Callable, backbone: "Backbone") -> "ScoreFunction":
    from rlhf_engine.evaluation.compare import text_judge
    return text_judge(score)


def _model_scorer(folder: Path, role: str, backbone: "Backbone") -> "ScoreFunction":
    from rlhf_engine.rollout.reward_functions import score_all
    backbone.load_role(role, folder, head=True)

    def score(prompts, prompt_ids, response_ids, texts) -> list[float]:
        rows = [prompt + response for prompt, response in zip(prompt_ids, response_ids)]
        return score_all(backbone, rows, batch=BATCH, role=role).tolist()
    return score
