r"""The column formats of data sets: how a row becomes a prompt, a demonstration, a preference, a ranking or a thumb.

`COLUMNS` is the table of formats. Each of them has a function that reads one row, checks it field by field, and raises
RowError, which says what is wrong with the row and how to mend it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from rlhf_engine.data import preferences as pairs
from rlhf_engine.data import trees
from rlhf_engine.data.examples import Demonstration, Preference, Ranking, Thumb
from rlhf_engine.data.fields import (
    ALWAYS,
    LABEL_COLUMNS,
    NEVER,
    RARE,
    THUMB_COLUMNS,
    Row,
    RowError,
    check_thumb,
    is_missing,
    optional_text,
    required_number,
    required_text,
)
from rlhf_engine.data.messages import (
    SYSTEM_COLUMNS,
    frame_prompt,
    is_dialogue,
    note_markup,
    read_conversation,
    read_prompt,
    read_response,
    turns_up_to,
    unfold,
)
from rlhf_engine.data.tokenization import Prompt

__all__ = ["ALWAYS", "COLUMNS", "KNOWN_COLUMNS", "NEVER", "RARE", "Demonstration", "Format", "Preference", "Ranking",
           "Row", "RowError", "Thumb"]

Example = Prompt | Demonstration | Preference | Ranking | Thumb


@dataclass(frozen=True)
class Format:
    """A set of columns, and what becomes of a row that has them."""

    read: Callable[[Row], Example]
    optional: tuple[str, ...] = ()
    """Columns that are used where there are any."""
    parts: dict[str, str] = field(default_factory=dict)
    """For each part of an example, where it comes from; a part that is not named here has a column of its own name."""
    public: str = ""
    """The public data sets that have these columns. "" is for the names of this project and its like."""
    gather: Callable[[Iterable[dict]], Iterator[trees.MadeRow]] | None = None
    """Makes the rows that `read` gets, where one example stands in several rows of the table."""
    label: str = ""
    """The column that calls an answer good or bad, where a row cannot do without it."""
    refusal: str = ""
    """Why rows with these columns cannot be used, and what to do."""

    def convert(self, row: Row) -> Example:
        """The example of a row, with its system text and earlier turns before the prompt. Raises RowError."""
        for column in LABEL_COLUMNS:
            if column in self.optional:
                check_thumb(row, column)
        example = self.read(row)
        if not isinstance(example, Demonstration | Preference | Ranking | Thumb):
            return frame_prompt(row, example, self.optional)
        pairs.note_repeats(row, example.prompt, pairs.answers_of(example))
        prompt = frame_prompt(row, example.prompt, self.optional)
        return example if prompt is example.prompt else dataclasses.replace(example, prompt=prompt)

    def source_of(self, part: str) -> str:
        """Where a part of an example comes from, in words."""
        return self.parts.get(part, f"column {part}")


# -- prompts and demonstrations --------------------------------------------------------------------------------------

def prompt_of_conversation(column: str) -> Callable[[Row], Prompt]:
    """A reader of the turns up to the user's last."""
    return lambda row: turns_up_to(read_conversation(row, column), "user", column)


def prompt_column(column: str) -> Callable[[Row], Prompt]:
    return lambda row: read_prompt(row, column)


def instruction(row: Row) -> Prompt:
    """Alpaca's `instruction`, with its `input` (Dolly: `context`) below."""
    more = [text for column in ("input", "context") if (text := optional_text(row, column))]
    # Alpaca-like sets leave the instruction empty where the input says it all.
    first = "" if more and is_missing(row.get("instruction")) else required_text(row, "instruction")
    return [{"role": "user", "content": "\n\n".join(filter(None, [first, *more]))}]


def answer_to(prompt: Callable[[Row], Prompt], column: str) -> Callable[[Row], Demonstration]:
    """A reader of a prompt and, in a column, its answer; or of whole messages in that column."""
    def convert(row: Row) -> Demonstration:
        before, text = read_response(row, column)
        if before:
            return Demonstration(before, text)
        if not is_dialogue(row.get("prompt")):
            return Demonstration(prompt(row), text)
        if is_dialogue(text):  # the prompt once more, and its answer
            return last_answer_of(column)(row)
        return Demonstration(prompt(row), text.strip())  # it begins with the blank after "Assistant:"
    return convert


def last_answer_of(column: str) -> Callable[[Row], Demonstration]:
    """A reader of the last assistant turn of a conversation, with the turns before it as the prompt."""
    def convert(row: Row) -> Demonstration:
        *before, last = turns_up_to(read_conversation(row, column), "assistant", column)
        return Demonstration(before, last["content"])
    return convert


def plain_text(row: Row) -> Demonstration:
    if is_missing(row.get("text")):  # wikitext has an empty row between any two paragraphs
        raise RowError("'text' is empty", tolerated=ALWAYS)
    text = required_text(row, "text")
    if unfold(text, "text") != text:
        raise RowError("'text' is a list of messages", "name the column messages")
    note_markup(row, "text", text)
    return Demonstration("", text)


# -- the table of formats --------------------------------------------------------------------------------------------

LAST_ASKED = "column {}, up to the last user turn"
BEFORE, LAST = "column {}, before its last assistant turn", "column {}, its last assistant turn"
INSTRUCTED = "column instruction, with the column input or context below it where there is one"
SHARED, DIFFERENT = "the beginning that {} and {} share", "column {}, from where they differ"
FRAME = SYSTEM_COLUMNS
ALPACA = ("input", "context", "history", *FRAME)


PROMPT_READERS = {"question": pairs.question_with_context}
"""Readers of a prompt in columns that hold more than a prompt."""


def prompt_in(column: str, public: str = "", *optional: str) -> Format:
    return Format(PROMPT_READERS.get(column) or prompt_column(column), (*optional, *FRAME),
                  {"prompt": f"column {column}"}, public)


def prompt_of(column: str, public: str = "") -> Format:
    return Format(prompt_of_conversation(column), FRAME, {"prompt": LAST_ASKED.format(column)}, public)


def answer_in(answer: str, prompt: str = "prompt", public: str = "", *optional: str) -> Format:
    parts = {"prompt": f"column {prompt}", "completion": f"column {answer}"}
    read = PROMPT_READERS.get(prompt) or prompt_column(prompt)
    return Format(answer_to(read, answer), (*optional, *LABEL_COLUMNS, *FRAME), parts, public)


def answer_of(column: str, public: str = "") -> Format:
    parts = {"prompt": BEFORE.format(column), "completion": LAST.format(column)}
    return Format(last_answer_of(column), (*LABEL_COLUMNS, *FRAME), parts, public)


def instruction_and(answer: str, public: str = "") -> Format:
    parts = {"prompt": INSTRUCTED, "completion": f"column {answer}"}
    return Format(answer_to(instruction, answer), (*ALPACA, *LABEL_COLUMNS), parts, public)


def pair_after(prompt: str, public: str = "", *optional: str) -> Format:
    read = PROMPT_READERS.get(prompt) or prompt_column(prompt)
    return Format(lambda row: pairs.pair_after(row, read(row)), ("margin", *optional, *FRAME),
                  {"prompt": f"column {prompt}"}, public)


def pair_of(prompt: str, first: str, second: str, better: str, public: str, verdict: Callable[[Row], float],
            read: Callable[[Row], Prompt] | None = None) -> Format:
    """Two answers, of which the column `better` says which one is better."""
    parts = {"prompt": f"column {prompt}", "chosen": f"column {first} or {second}, as {better} says",
             "rejected": f"the other one of {first} and {second}",
             "response": f"columns {first} and {second}, where {better} calls them equal"}
    return Format(pairs.judged_pair(read or prompt_column(prompt), first, second, verdict), (), parts, public)


def ranked(prompt: str, column: str, text: str, *numbers: str, public: str, best_is_low: bool = False) -> Format:
    read = pairs.ranking_of_objects(prompt_column(prompt), column, text, *numbers, best_is_low=best_is_low)
    best = "the lowest" if best_is_low else "the highest"
    parts = {"prompt": f"column {prompt}", "response": f"column {column}; {best} {' or '.join(numbers)} is best"}
    return Format(read, (), parts, public)


def tree(roots: Callable, make: Callable, read: Callable[[Row], Example], public: str, **parts: str) -> Format:
    parts["prompt"] = "the messages up to one of a prompter"
    return Format(read, ("rank", "deleted"), parts, public, gather=lambda rows: make(roots(rows)))


MESSAGES = partial(tree, trees.roots_of_messages, public="OpenAssistant's messages")
TREES = partial(tree, trees.roots_of_trees, public="OpenAssistant's trees")
OASST_MESSAGES, OASST_TREES = "message_id + parent_id + text + role", "message_tree_id + prompt"
BEST_REPLY, REPLIES = "the reply with the best rank", "its replies; the lowest rank is best"
QUESTIONS = "a set of questions, as GSM8K and OpenOrca"
HELPSTEER = "NVIDIA's HelpSteer"

PROMPTS = {
    OASST_MESSAGES: MESSAGES(trees.tree_prompts, read_prompt),
    OASST_TREES: TREES(trees.tree_prompts, read_prompt),
    "prompt": prompt_in("prompt", "", "history"),
    "messages": prompt_of("messages"),
    "conversations": prompt_of("conversations"),
    "instruction": Format(instruction, ALPACA, {"prompt": INSTRUCTED}),
    "question": prompt_in("question", QUESTIONS, "context", "history"),
    "input + chosen + rejected": prompt_in("input", "Argilla's Orca pairs"),
    "context + response1 + response2": prompt_in("context", f"{HELPSTEER}3"),
    "chosen": prompt_of("chosen"),
    "conversation": prompt_of("conversation", "Capybara and its like"),
    "history + human_ref_A + human_ref_B": prompt_in("history", "Stanford's SHP"),
    "problem": prompt_in("problem", "a set of problems, as MATH"),
    "query": prompt_in("query", "a set of queries, as MetaMath", "history")}

DEMONSTRATIONS = {
    OASST_MESSAGES: MESSAGES(trees.tree_demonstrations, answer_to(read_prompt, "completion"), completion=BEST_REPLY),
    OASST_TREES: TREES(trees.tree_demonstrations, answer_to(read_prompt, "completion"), completion=BEST_REPLY),
    "prompt + completion": answer_in("completion", "prompt", "", "history"),
    "messages": answer_of("messages"),
    "conversations": answer_of("conversations"),
    "instruction + output": instruction_and("output"),
    "text": Format(plain_text, (), {"prompt": "nothing: plain language modelling", "completion": "column text"}),
    "instruction + response": instruction_and("response", "instructions with responses, as Dolly and Magpie"),
    "prompt + response": answer_in("response", "prompt", "prompts with responses", "history"),
    "question + answer": answer_in("answer", "question", QUESTIONS, "context", "history"),
    "question + response": answer_in("response", "question", QUESTIONS, "context", "history"),
    "conversation": answer_of("conversation", "Capybara and its like"),
    "problem + solution": answer_in("solution", "problem", "a set of problems, as MATH"),
    "query + response": answer_in("response", "query", "a set of queries, as MetaMath", "history")}

PREFERENCES = {
    OASST_MESSAGES: MESSAGES(trees.tree_rankings, pairs.ranking_by("ranking"), response=REPLIES),
    OASST_TREES: TREES(trees.tree_rankings, pairs.ranking_by("ranking"), response=REPLIES),
    "prompt + chosen + rejected": pair_after("prompt", "", "history"),
    "conversations + chosen + rejected": Format(
        pairs.conversation_and_pair("conversations"), ("margin", *FRAME), {"prompt": "column conversations"}),
    "messages + chosen + rejected": Format(
        pairs.conversation_and_pair("messages"), ("margin", *FRAME), {"prompt": "column messages"}),
    "instruction + chosen + rejected": Format(
        lambda row: pairs.pair_after(row, instruction(row)), ("margin", *ALPACA), {"prompt": INSTRUCTED},
        "Alpaca's instructions with chosen and rejected"),
    "question + chosen + rejected": pair_after("question", "Orca's pairs", "context", "history"),
    "input + chosen + rejected": pair_after("input", "Argilla's Orca pairs"),
    "chosen + rejected": Format(pairs.dialogue_pair, ("margin", *FRAME), {
        "prompt": SHARED.format("chosen", "rejected"), "chosen": DIFFERENT.format("chosen"),
        "rejected": DIFFERENT.format("rejected")}),
    "prompt + responses + ranking": Format(pairs.ranking_by("ranking"), FRAME, {
        "response": "column responses; the column ranking says which is best (1)"}),
    "prompt + responses + scores": Format(pairs.ranking_by("scores"), FRAME, {
        "response": "column responses; the highest in the column scores is best"}),
    "prompt + response_0 + response_1 + better_response_id": pair_of(
        "prompt", "response_0", "response_1", "better_response_id", "PKU's SafeRLHF",
        pairs.is_one_of("better_response_id", 0, 1)),
    "prompt + response_1 + response_2 + preference_strength": pair_of(
        "prompt", "response_1", "response_2", "preference_strength", f"{HELPSTEER}2, its preferences",
        lambda row: -required_number(row, "preference_strength")),
    "context + response1 + response2 + overall_preference": pair_of(
        "context", "response1", "response2", "overall_preference", f"{HELPSTEER}3",
        lambda row: -required_number(row, "overall_preference")),
    "prompt + response + helpfulness": Format(
        pairs.ranking_by("scores"), (), {"response": "column response of the rows with this prompt; the highest "
                                         "helpfulness is best"}, HELPSTEER, gather=trees.group_by_prompt),
    "history + human_ref_A + human_ref_B + labels": pair_of(
        "history", "human_ref_A", "human_ref_B", "labels", "Stanford's SHP", pairs.is_one_of("labels", 1, 0)),
    "question + answer_0 + answer_1 + score_0 + score_1": pair_of(
        "question", "answer_0", "answer_1", "score_0 and score_1", "WebGPT's comparisons",
        lambda row: required_number(row, "score_0") - required_number(row, "score_1"), pairs.question_text),
    "prompt + answers": ranked("prompt", "answers", "answer", "rank", public="Nectar", best_is_low=True),
    "question + answers": ranked("question", "answers", "text", "pm_score", public="Stack Exchange's preferences"),
    "question + response_j + response_k": Format(
        pairs.text_pair("question", "response_j", "response_k"), (),
        {"prompt": "column question", "chosen": "column response_j", "rejected": "column response_k"},
        "Stack Exchange's pairs"),
    "instruction + completions": ranked("instruction", "completions", "response", "fine-grained_score", "overall_score",
                                        public="UltraFeedback with all its answers"),
    "conversation_a + conversation_b + winner": Format(pairs.arena_battle, (), {
        "prompt": SHARED.format("conversation_a", "conversation_b"), "chosen": "the winner's answer",
        "rejected": "the other answer", "response": "both answers, of a tie"}, "the Chatbot Arena"),
    "prompt + completions + labels": Format(prompt_column("prompt"), (), {}, "stepwise", refusal=(
        "labels each step of an answer (TRL's stepwise supervision), but only whole answers are judged here; give "
        "prompt and completion, or prompt, chosen and rejected"))}


def thumbs_in(answers: Format, label: str) -> Format:
    """Thumbs in the column `label`, on answers that stand in a row as those of demonstrations do."""
    answer = answers.source_of("completion")
    parts = {"prompt": answers.source_of("prompt"), "desirable": f"{answer}, where {label} calls it good",
             "undesirable": f"{answer}, where {label} calls it bad"}
    optional = tuple(column for column in answers.optional if column not in LABEL_COLUMNS)
    public = answers.public or ("" if label == LABEL_COLUMNS[0] else f"answers with thumbs in the column {label}")
    return Format(pairs.thumb_on(answers.read, label), optional, parts, public, label=label)


def thumb_formats() -> dict[str, Format]:
    """A format for each column of thumbs beside each set of columns that makes a demonstration with a prompt."""
    formats = {}
    for label in THUMB_COLUMNS:
        for form, answers in DEMONSTRATIONS.items():
            if answers.gather is None and LABEL_COLUMNS[0] in answers.optional:
                formats[f"{form} + {label}"] = thumbs_in(answers, label)
    return formats


COLUMNS: dict[str, dict[str, Format]] = {
    "prompts": PROMPTS, "demonstrations": DEMONSTRATIONS, "preferences": PREFERENCES, "thumbs": thumb_formats()}
"""For each kind of data, the sets of columns that make it and the format of such rows. The first set whose columns are
all there, under exactly these names, is used."""


def known_columns() -> set[str]:
    """All columns that some format reads."""
    known: set[str] = set()
    for formats in COLUMNS.values():
        for form, each in formats.items():
            known.update(form.split(" + "), each.optional)
    return known


KNOWN_COLUMNS = known_columns()
