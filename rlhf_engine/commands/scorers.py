"""What scores or judges the responses for a command: a reward run, a scoring function, or a chat model in both orders.

torch is imported late, so that what can be refused without a model is refused at once.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.llm_judge import find_judge, is_judge
from rlhf_engine.feedback.scoring_functions import BUILT_IN, built_in, is_function, load_function, score_text
from rlhf_engine.runs.resolve import resolve_reward

if TYPE_CHECKING:
    from rlhf_engine.evaluation.compare import ScoreFunction
    from rlhf_engine.evaluation.judging import Referee
    from rlhf_engine.model.backbone import Backbone

SCORES = "a reward run, FILE.py:FUNCTION, sentiment, short, long, dialogue or keyword=WORD"
"""How a scorer is written, for help texts."""
JUDGES = f"{SCORES}; or a chat model, judge=MODEL or judge=MODEL@URL"
"""How a judge is written, for help texts."""
INSTRUCTION_HELP = ("what a chat model is told to prefer, such as \"the happier story\" (the more helpful, honest and "
                    "harmless answer)")
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


# -- judges ------------------------------------------------------------------------------------------------------------

def load_judges(specs: Sequence[str], *, instruction: str = "", seed: int = 0, device: str = "auto",
                prompt: Prompt | None = None) -> "list[Callable[[Backbone], Referee]]":
    """For each SPEC a function that makes the judge from a backbone, in which reward models become roles.

    Files and folders are checked now, and chat models of this machine are loaded. Arguments as for `load_scorer` and
    `find_judge`. Raises UserError.
    """
    named_once(specs)
    check_instruction(instruction, specs)
    scorers = [None if is_judge(spec) else checked_scorer(spec, f"judge{i}" if i else "reward", prompt)
               for i, spec in enumerate(specs)]
    makers = []
    for spec, scorer in zip(specs, scorers):
        if scorer is None:
            makers.append(partial(_chat_model, spec, find_judge(spec, instruction, seed, device=device)))
        else:
            makers.append(partial(_scoring_judge, spec, scorer))
    return makers


def named_once(specs: Sequence[str]) -> None:
    """Raises UserError where --judge names a judge twice."""
    for number, spec in enumerate(specs):
        if spec in specs[:number]:
            raise UserError(f"--judge names {spec} twice: name each judge once")


def check_instruction(instruction: str, specs: Sequence[str]) -> None:
    """Raises UserError for an instruction that no judge would read."""
    if instruction and not any(map(is_judge, specs)):
        raise UserError("--instruction is for a chat model, and there is none: leave it out, or add --judge "
                        "judge=MODEL")


def note_trainers(judges: list[dict[str, Any]], adapters: Sequence[str]) -> list[str]:
    """Say of each judge in a report whether one of the policies was trained on it. Returns the sentences.

    The report of each gets `judge_is_trainer` (of a reward) and `judge_is_labeler` (of what gave the votes).
    """
    from rlhf_engine.evaluation.lineage import trainer_note, trainer_of
    notes: list[str] = []
    for judge in judges:
        sources = [source for adapter in adapters if (source := trainer_of(judge["judge"], adapter))]
        judge["judge_is_trainer"] = any(source.kind == "reward" for source in sources)
        judge["judge_is_labeler"] = any(source.kind == "labeler" for source in sources)
        notes += [trainer_note(judge["judge"], source) for source in sources]
    return list(dict.fromkeys(notes))


def checked_scorer(spec: str, role: str, prompt: Prompt | None) -> Callable:
    """`load_scorer`, whose message about a SPEC that is none names chat models, too."""
    try:
        return load_scorer(spec, "--judge", role=role, prompt=prompt)
    except UserError as error:
        raise UserError(str(error).replace("or FILE.py:FUNCTION", "FILE.py:FUNCTION or judge=MODEL")) from None


def _chat_model(spec: str, judge, backbone: "Backbone") -> "Referee":
    from rlhf_engine.evaluation.judging import chat_model_referee
    return chat_model_referee(spec, judge)


def _scoring_judge(spec: str, make_scores: Callable, backbone: "Backbone") -> "Referee":
    from rlhf_engine.evaluation.compare import score_referee
    return score_referee(spec, make_scores(backbone))
