"""How a row becomes a preference, a ranking or a thumb, in the columns of this project and of public data sets."""

from collections.abc import Callable, Sequence

from rlhf_engine.data.examples import Demonstration, Preference, Ranking, Thumb
from rlhf_engine.data.fields import (
    ALWAYS,
    NEVER,
    RARE,
    Row,
    RowError,
    check_text,
    is_missing,
    list_of,
    margin_of,
    optional_text,
    parse_cell,
    parse_number,
    read_thumb,
    required_number,
)
from rlhf_engine.data.messages import (
    is_dialogue,
    messages_ending_with,
    read_conversation,
    read_messages,
    read_prompt,
    read_response,
    turns_up_to,
    unfold,
)
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import kind_of

# -- pairs -----------------------------------------------------------------------------------------------------------

def pair(prompt: Prompt, chosen: str, rejected: str, margin: float = 0.0) -> Preference:
    if chosen == rejected:
        raise RowError("chosen equals rejected", tolerated=ALWAYS)
    return Preference(prompt, chosen, rejected, margin)


def pair_of_conversations(chosen: list[dict], rejected: list[dict], margin: float = 0.0) -> Preference:
    """A preference from two whole conversations.

    What the two share is the prompt. The first turns that differ are the answers.
    """
    if chosen == rejected:
        raise RowError("chosen equals rejected", tolerated=ALWAYS)
    differ = (i for i, (left, right) in enumerate(zip(chosen, rejected)) if left != right)
    shared = next(differ, min(len(chosen), len(rejected)))
    first, second = chosen[shared:shared + 1], rejected[shared:shared + 1]
    if not shared or [turn["role"] for turn in first + second] != ["assistant", "assistant"]:
        raise RowError("chosen and rejected do not part at an answer to the same prompt", tolerated=ALWAYS)
    if chosen[shared - 1]["role"] != "user":
        raise RowError("'chosen' has no turn of the user before the answer", "take the row out", RARE)
    prompt = turns_up_to(chosen[:shared], "user", "chosen")
    return Preference(prompt, first[0]["content"], second[0]["content"], margin)


def dialogue_pair(row: Row) -> Preference:
    """HH's rows: two whole dialogues and no column for the prompt."""
    chosen, rejected = (read_conversation(row, column) for column in ("chosen", "rejected"))
    return pair_of_conversations(chosen, rejected, margin_of(row))


def pair_after(row: Row, prompt: Prompt) -> Preference:
    """The pair of the columns `chosen` and `rejected`: answers to the prompt, or conversations that begin with it."""
    whole = [column for column in ("chosen", "rejected") if is_dialogue(row.get(column))]
    if len(whole) == 1:
        raise RowError(f"of chosen and rejected, only '{whole[0]}' is a dialogue of Human and Assistant",
                       "write both in the same way, or take the row out", RARE)
    if whole:
        row.remarks.append("'chosen' and 'rejected' are dialogues, whose Human and Assistant became turns")
        result = dialogue_pair(row)
    else:
        before_chosen, chosen = read_response(row, "chosen")
        before_rejected, rejected = read_response(row, "rejected")
        if not before_chosen and not before_rejected:
            if is_dialogue(row.get("prompt")):  # its answers begin with the blank after "Assistant:"
                chosen, rejected = chosen.strip(), rejected.strip()
            return pair(prompt, chosen, rejected, margin_of(row))
        first, second = (read_messages(row, column, unfold(row[column], column)) for column in ("chosen", "rejected"))
        result = pair_of_conversations(first, second, margin_of(row))
    if result.prompt == [{"role": "user", "content": prompt}]:
        return Preference(prompt, result.chosen, result.rejected, result.margin)  # a text, as read_prompts returns it
    asked = text_of_prompt(prompt).strip()
    turns = result.prompt if isinstance(result.prompt, list) else []
    if not any(asked in turn["content"] for turn in turns):
        row.remarks.append("'chosen' and 'rejected' begin with other turns than the prompt, which is left out")
    return result


def conversation_and_pair(column: str) -> Callable[[Row], Preference]:
    """A reader of a conversation that ends with the user, and two answers to it."""
    def convert(row: Row) -> Preference:
        turns = messages_ending_with(row, row.get(column), "user", column)
        return pair(turns_up_to(turns, "user", column), read_response(row, "chosen")[1],
                    read_response(row, "rejected")[1], margin_of(row))
    return convert


def text_pair(prompt: str, chosen: str, rejected: str) -> Callable[[Row], Preference]:
    """A reader of a prompt and two answers in columns of these names."""
    def convert(row: Row) -> Preference:
        return pair(read_prompt(row, prompt), read_response(row, chosen)[1], read_response(row, rejected)[1])
    return convert


# -- two answers, and a number that says which is better -------------------------------------------------------------

def judged_pair(prompt: Callable[[Row], Prompt], first: str, second: str,
                verdict: Callable[[Row], float]) -> Callable[[Row], Preference | Ranking]:
    """A reader of two answers, in the columns `first` and `second`.

    `verdict` is above 0 where the first one is better, below 0 where the second one is, and 0 where they are equal.
    """
    def convert(row: Row) -> Preference | Ranking:
        asked, sign = prompt(row), verdict(row)
        one, other = read_response(row, first)[1], read_response(row, second)[1]
        if sign == 0:
            return Ranking(asked, (one, other), (1.0, 1.0))
        return pair(asked, one, other) if sign > 0 else pair(asked, other, one)
    return convert


def is_one_of(column: str, first: float, second: float) -> Callable[[Row], float]:
    """A verdict by a column that holds `first` where the first answer is better, and else `second`."""
    def verdict(row: Row) -> float:
        value = required_number(row, column)
        if value not in (first, second):
            raise RowError(f"'{column}' is {value:g}", f"write {first:g} where the first answer is better, "
                                                       f"and {second:g} where the second is")
        return 1.0 if value == first else -1.0
    return verdict


def arena_battle(row: Row) -> Preference | Ranking:
    """Two conversations with two models, and the winner: model_a, model_b, or a tie."""
    first, second = (read_conversation(row, column) for column in ("conversation_a", "conversation_b"))
    winner = str(row.get("winner"))
    if winner == "model_b":
        first, second = second, first
    elif winner != "model_a" and not winner.startswith("tie"):
        raise RowError(f"'winner' is {winner[:40]!r}", "write model_a, model_b or tie")
    result = pair_of_conversations(first, second)
    if winner.startswith("tie"):
        return Ranking(result.prompt, (result.chosen, result.rejected), (1.0, 1.0))
    return result


# -- rankings --------------------------------------------------------------------------------------------------------

def ranking(prompt: Prompt, texts: Sequence, numbers: Sequence, column: str, best_is_low: bool) -> Ranking:
    """K responses and as many numbers: ranks (1 is best) where `best_is_low`, else scores (more is better)."""
    responses = tuple(check_text(text, "a response") for text in texts)
    if len(responses) < 2 or len(numbers) != len(responses):
        alone = len(responses) < 2 and len(numbers) == len(responses)
        raise RowError(f"{len(responses)} responses and {len(numbers)} numbers in '{column}'",
                       "give two or more responses and one number for each", RARE if alone else NEVER)
    values = tuple(parse_number(number) for number in numbers)
    known = tuple(value for value in values if value is not None)
    if len(known) < len(values):
        wrong = any(value is None and not is_missing(number) for value, number in zip(values, numbers))
        raise RowError(f"'{column}' holds something other than numbers", "write one number for each response",
                       NEVER if wrong else RARE)
    if best_is_low and min(known) < 0:
        raise RowError(f"'{column}' holds {min(known):g}", "a rank is 1 for the best response, 2 for the next; numbers "
                       "of which more is better belong in a column scores")
    if best_is_low:
        return Ranking(prompt, responses, known)
    ranks = tuple(1.0 + sum(other > number for other in known) for number in known)
    return Ranking(prompt, responses, ranks, known)


def ranking_by(column: str) -> Callable[[Row], Ranking]:
    """A reader of the columns prompt and responses, and of a list of numbers: `ranking` or `scores`."""
    def convert(row: Row) -> Ranking:
        prompt = read_prompt(row)
        result = ranking(prompt, list_of(row, "responses"), list_of(row, column), column, column == "ranking")
        if column == "ranking" and not result.ratings and min(result.ranks) > len(result.ranks):
            row.remarks.append("all numbers in 'ranking' are larger than the number of responses: the lowest was taken "
                               "for the best; scores, of which the highest is best, belong in a column scores")
        return result
    return convert


def ranking_of_objects(prompt: Callable[[Row], Prompt], column: str, text: str, *numbers: str,
                       best_is_low: bool = False) -> Callable[[Row], Ranking]:
    """A reader of a list of objects, of which each has a text and a rank or score: the first of `numbers` it has."""
    def convert(row: Row) -> Ranking:
        asked, answers = prompt(row), list_of(row, column)
        if not all(isinstance(answer, dict) for answer in answers):
            raise RowError(f"'{column}' is a list of other things", f'write a list of objects {{"{text}": ...}}')
        values = []
        for answer in answers:
            given = [answer[name] for name in numbers if not is_missing(answer.get(name))]
            known = [value for value in given if parse_number(value) is not None]
            values.append(next(iter(known + given), None))
        return ranking(asked, [answer.get(text) for answer in answers], values, f"{column}: {numbers[0]}", best_is_low)
    return convert


# -- thumbs ----------------------------------------------------------------------------------------------------------

def thumb_on(read: Callable[[Row], object], label: str) -> Callable[[Row], Thumb]:
    """A reader of a prompt and its answer, and of the column `label`, which calls the answer good or bad."""
    def convert(row: Row) -> Thumb:
        desirable = read_thumb(row, label)
        example = read(row)
        assert isinstance(example, Demonstration)
        return Thumb(example.prompt, example.completion, desirable)
    return convert


def thumbs_of(row: Preference | Ranking | Thumb) -> list[Thumb]:
    """The thumbs that follow from a row: a chosen response is desirable, a rejected one is not.

    Of a ranking, responses nearer to the best rank than to the worst are desirable, and those nearer to the worst are
    not. Those in the middle, and ties alone, say neither.
    """
    if isinstance(row, Thumb):
        return [row]
    if isinstance(row, Preference):
        return [Thumb(row.prompt, row.chosen, True), Thumb(row.prompt, row.rejected, False)]
    middle = (min(row.ranks) + max(row.ranks)) / 2
    return [Thumb(row.prompt, text, rank < middle) for text, rank in zip(row.responses, row.ranks) if rank != middle]


# -- prompts and answers ---------------------------------------------------------------------------------------------

def question_text(row: Row) -> Prompt:
    """The question of a row, which WebGPT has as an object around its text."""
    value = parse_cell(row.get("question"))
    if isinstance(value, dict):
        text = value.get("full_text", value.get("text"))
        if text is None:
            raise RowError(f"'question' is {kind_of(value)} without a field full_text", "write a text")
        return check_text(text, "'question'")
    return read_prompt(row, "question")


def question_with_context(row: Row) -> Prompt:
    """A question, with the passage that it is about (`context`) below it."""
    asked = question_text(row)
    if isinstance(row.get("context"), list | dict) and row["context"]:
        row.remarks.append("'context' is no text and is not used")
        return asked
    context = optional_text(row, "context")
    if not context:
        return asked
    if isinstance(asked, str):
        return f"{asked}\n\n{context}"
    *before, last = asked
    return [*before, {**last, "content": f"{last['content']}\n\n{context}"}]


def text_of_prompt(prompt: Prompt) -> str:
    """The text of a prompt; of a conversation that of its last turn."""
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def answers_of(example: Demonstration | Preference | Ranking | Thumb) -> tuple[str, ...]:
    """The answers that an example has to its prompt."""
    if isinstance(example, Demonstration | Thumb):
        return (example.completion,)
    return (example.chosen, example.rejected) if isinstance(example, Preference) else example.responses


SHORTEST_REPEAT = 8
"""Characters of a prompt at least that an answer may begin with by chance."""


def note_repeats(row: Row, prompt: Prompt, answers: Sequence[str]) -> None:
    """Remark on answers that begin with the whole prompt, so that the model would read it twice."""
    asked = text_of_prompt(prompt).strip() if prompt else ""
    if len(asked) >= SHORTEST_REPEAT and all(answer.lstrip().startswith(asked) for answer in answers):
        row.remarks.append("the answers begin with the whole prompt, so that it stands there twice; "
                           "take it out of them")
