"""Rows as public data sets have them: each is understood, with all its columns used or named, or refused by name."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from rlhf_engine.data.formats import COLUMNS, KNOWN_COLUMNS
from rlhf_engine.data.readers import (
    Demonstration,
    Preference,
    Ranking,
    read_demonstrations,
    read_preferences,
    read_prompts,
    read_rows,
)
from tests.rlhf_engine.helpers.messages import refused


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


SYSTEM, USER, ANSWER, OTHER = system("s"), user("q"), assistant("a"), assistant("b")
SHAREGPT = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
HH = "\n\nHuman: q\n\nAssistant:"
EARLIER = [user("x"), assistant("y")]
FLAT = [{"message_id": "1", "parent_id": None, "text": "q", "role": "prompter", "rank": None, "lang": "en", "deleted": False},
        {"message_id": "2", "parent_id": "1", "text": "b", "role": "assistant", "rank": 1.0, "lang": "en", "deleted": False},
        {"message_id": "3", "parent_id": "1", "text": "a", "role": "assistant", "rank": 0.0, "lang": "en", "deleted": False},
        {"message_id": "4", "parent_id": "3", "text": "r", "role": "prompter", "rank": None, "lang": "en", "deleted": False},
        {"message_id": "5", "parent_id": "4", "text": "c", "role": "assistant", "rank": None, "lang": "en", "deleted": False},
        {"message_id": "6", "parent_id": "4", "text": "bad", "role": "assistant", "rank": None, "lang": "en", "deleted": True},
        {"message_id": "7", "parent_id": "lost", "text": "z", "role": "assistant", "rank": None, "lang": "en", "deleted": False}]
TREE = {"message_tree_id": "1", "tree_state": "ready_for_export", "prompt": {
    "message_id": "1", "text": "q", "role": "prompter", "replies": [
        {"text": "b", "role": "assistant", "rank": 1, "replies": []},
        {"text": "a", "role": "assistant", "rank": 0, "replies": [
            {"text": "r", "role": "prompter", "replies": [{"text": "c", "role": "assistant", "replies": []}]}]}]}}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write rows as JSON Lines and as Parquet into the working directory; returns the names of the files."""
    monkeypatch.chdir(tmp_path)

    def write(rows, parquet: bool = True) -> list[str]:
        with open("data.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
        if not parquet:
            return ["data.jsonl"]
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), "data.parquet")
        return ["data.jsonl", "data.parquet"]

    return write


PROMPTS = [
    ("Alpaca", {"instruction": "q", "input": "", "output": "a"}, [USER], ["output"]),
    ("LLaMA-Factory", {"instruction": "q", "input": "i", "output": "a", "system": "s", "history": [["x", "y"]]},
     [SYSTEM, *EARLIER, user("q\n\ni")], ["output"]),
    ("OpenAI, parts", {"messages": [{"role": "developer", "content": [{"type": "text", "text": "s"}]}, {"role": "user", "content": [{"type": "text", "text": "q"}]}]},
     [SYSTEM, USER], []),
    ("TRL, prompt of messages with a system column", {"prompt": [USER], "system": "s"}, [SYSTEM, USER], []),
    ("HH's prompt", {"prompt": HH, "response": " a"}, [USER], ["response"]),
    ("HH's prompt without its end", {"prompt": "\n\nHuman: q"}, [USER], []),
    ("HH's prompt with several turns", {"prompt": "\n\nHuman: x\n\nAssistant: y\n\nHuman: q\n\nAssistant:"}, [*EARLIER, USER], []),
    ("SHP", {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}, "q", ["labels"]),
    ("GSM8K", {"question": "q", "answer": "a"}, "q", ["answer"]),
    ("OpenOrca", {"id": "1", "system_prompt": "s", "question": "q", "response": "a"}, [SYSTEM, USER], ["id", "response"]),
    ("WebGPT", {"question": {"dataset": "eli5", "id": "1", "full_text": "q"}, "answer_0": "a"}, "q", ["answer_0"]),
    ("HelpSteer3", {"context": [USER], "response1": "a", "response2": "b", "overall_preference": 1}, [USER], ["overall_preference"]),
    ("Argilla's Orca", {"system": "s", "input": "q", "chosen": "a", "rejected": "b"}, [SYSTEM, USER], []),
    ("Capybara", {"source": "x", "conversation": [{"input": "x", "output": "y"}, {"input": "q", "output": "a"}]}, [*EARLIER, USER], ["source"]),
]


@pytest.mark.parametrize(("row", "prompt", "unused"), [case[1:] for case in PROMPTS], ids=[case[0] for case in PROMPTS])
def test_prompts(write, row, prompt, unused):
    for file in write([row]):
        rows = read_prompts(file)
        assert rows == [prompt] and rows.unused == unused
        assert not unused or rows.remarks[-1] == f"columns that are not used: {', '.join(unused)}"


DEMONSTRATIONS = [
    ("Alpaca", {"instruction": "q", "input": "i", "output": "a", "text": "Below is an instruction."}, [user("q\n\ni")], "a", ["text"]),
    ("LLaMA-Factory, thumbs", {"instruction": "q", "input": None, "output": "a", "kto_tag": True}, [USER], "a", []),
    ("LLaMA-Factory, ShareGPT", {"conversations": SHAREGPT, "system": "s", "tools": "[]"}, [SYSTEM, USER], "a", ["tools"]),
    ("ShareGPT", {"id": "x", "conversations": [{"from": "system", "value": "s"}, *SHAREGPT]}, [SYSTEM, USER], "a", ["id"]),
    ("OpenHermes", {"conversations": SHAREGPT, "system_prompt": None, "source": "x"}, [USER], "a", ["source"]),
    ("OpenAI", {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]}, [USER], "ab", []),
    ("TRL", {"prompt": [USER], "completion": [ANSWER]}, [USER], "a", []),
    ("TRL, thumbs as words", {"prompt": "q", "completion": "a", "label": "good"}, "q", "a", []),
    ("HH's prompt, repeated", {"prompt": HH, "completion": HH + " a"}, [USER], "a", []),
    ("HH's prompt", {"prompt": HH, "response": " a", "chosen": " a", "rejected": " b"}, [USER], "a", ["chosen", "rejected"]),
    ("Dolly", {"instruction": "q", "context": "i", "response": "a", "category": "open_qa"}, [user("q\n\ni")], "a", ["category"]),
    ("Magpie", {"uuid": "1", "instruction": "q", "response": "a", "conversations": SHAREGPT}, [USER], "a", ["uuid", "instruction", "response"]),
    ("GSM8K", {"question": "q", "answer": "1 + 1\n#### 2"}, "q", "1 + 1\n#### 2", []),
    ("OpenOrca", {"id": "1", "system_prompt": "s", "question": "q", "response": "a"}, [SYSTEM, USER], "a", ["id"]),
    ("HelpSteer", {"prompt": "q", "response": "a", "helpfulness": 4}, "q", "a", ["helpfulness"]),
    ("Capybara", {"conversation": [{"input": "q", "output": "a"}]}, [USER], "a", []),
    ("TinyStories", {"text": "Once."}, "", "Once.", []),
    ("MATH", {"problem": "q", "solution": "a", "level": "1"}, "q", "a", ["level"]),
]


@pytest.mark.parametrize(("row", "prompt", "completion", "unused"), [case[1:] for case in DEMONSTRATIONS], ids=[case[0] for case in DEMONSTRATIONS])
def test_demonstrations(write, row, prompt, completion, unused):
    for file in write([row]):
        rows = read_demonstrations(file)
        assert rows == [Demonstration(prompt, completion)] and rows.unused == unused


A_OVER_B = Preference("q", "a", "b")
PREFERENCES = [
    ("LLaMA-Factory", {"instruction": "q", "input": "i", "chosen": "a", "rejected": "b", "system": "s", "history": []},
     Preference([SYSTEM, user("q\n\ni")], "a", "b"), []),
    ("LLaMA-Factory, ShareGPT", {"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "b"}, "system": "s"},
     Preference([SYSTEM, USER], "a", "b"), []),
    ("TRL, implicit prompt", {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, Preference([USER], "a", "b"), []),
    ("TRL, explicit prompt", {"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}, Preference([USER], "a", "b"), []),
    ("HH", {"chosen": HH + " a", "rejected": HH + " b"}, Preference([USER], "a", "b"), []),
    ("HH, prompt apart", {"prompt": HH, "response": " a", "chosen": " a", "rejected": " b"}, Preference([USER], "a", "b"), ["response"]),
    ("HH, prompt repeated", {"prompt": HH, "chosen": HH + " a", "rejected": HH + " b"}, Preference([USER], "a", "b"), []),
    ("HH, prompt as text", {"prompt": "q", "chosen": HH + " a", "rejected": HH + " b"}, A_OVER_B, []),
    ("UltraFeedback, binarized", {"prompt": "q", "prompt_id": "1", "chosen": [USER, ANSWER], "rejected": [USER, OTHER], "messages": [USER, ANSWER],
                                  "score_chosen": 8.0, "score_rejected": 3.0}, A_OVER_B, ["prompt_id", "messages", "score_chosen", "score_rejected"]),
    ("UltraFeedback, raw", {"source": "x", "instruction": "q", "models": ["m", "n"], "completions": [
        {"response": "a", "fine-grained_score": 4.5, "overall_score": 1.0}, {"response": "b", "fine-grained_score": 2.0, "overall_score": 10.0}]},
     Ranking("q", ("a", "b"), (1.0, 2.0), (4.5, 2.0)), ["source", "models"]),
    ("HelpSteer2, preferences", {"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -2}, A_OVER_B, []),
    ("HelpSteer3", {"domain": "x", "context": [USER], "response1": "b", "response2": "a", "overall_preference": 3}, Preference([USER], "a", "b"), ["domain"]),
    ("HelpSteer3, a tie", {"context": [USER], "response1": "a", "response2": "b", "overall_preference": 0}, Ranking([USER], ("a", "b"), (1.0, 1.0)), []),
    ("Nectar", {"prompt": "\n\nHuman: q\n\nAssistant: ", "answers": [{"answer": "b", "model": "m", "rank": 2.0}, {"answer": "a", "model": "n", "rank": 1.0}],
                "turns": 1}, Ranking([USER], ("b", "a"), (2.0, 1.0)), ["turns"]),
    ("SHP", {"post_id": "1", "history": "q", "human_ref_A": "b", "human_ref_B": "a", "labels": 0, "score_ratio": 2.0}, A_OVER_B, ["post_id", "score_ratio"]),
    ("WebGPT", {"question": {"dataset": "eli5", "id": "1", "full_text": "q"}, "quotes_0": {"title": ["t"]}, "answer_0": "b", "score_0": -0.5,
                "answer_1": "a", "score_1": 0.5}, A_OVER_B, ["quotes_0"]),
    ("Stack Exchange", {"qid": 1, "question": "q", "answers": [{"answer_id": 1, "pm_score": 3, "selected": True, "text": "a"},
                                                                {"answer_id": 2, "pm_score": 0, "selected": False, "text": "b"}]},
     Ranking("q", ("a", "b"), (1.0, 2.0), (3.0, 0.0)), ["qid"]),
    ("Stack Exchange, pairs", {"qid": 1, "question": "q", "response_j": "a", "response_k": "b"}, A_OVER_B, ["qid"]),
    ("SafeRLHF", {"prompt": "q", "response_0": "b", "response_1": "a", "better_response_id": 1, "safer_response_id": 0}, A_OVER_B, ["safer_response_id"]),
    ("Orca", {"system": "s", "question": "q", "chosen": "a", "rejected": "b"}, Preference([SYSTEM, USER], "a", "b"), []),
    ("Orca, empty system", {"system": "", "question": "q", "chosen": "a", "rejected": "b"}, A_OVER_B, []),
    ("Argilla's Orca", {"system": "s", "input": "q", "chosen": "a", "rejected": "b", "status": "x"}, Preference([SYSTEM, USER], "a", "b"), ["status"]),
    ("Argilla's Capybara", {"source": "x", "conversation": [{"input": "q", "output": "a"}], "prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]},
     A_OVER_B, ["source", "conversation"]),
    ("Magpie", {"instruction": "q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, Preference([USER], "a", "b"), []),
    ("Arena", {"conversation_a": [USER, OTHER], "conversation_b": [USER, ANSWER], "winner": "model_b"}, Preference([USER], "a", "b"), []),
    ("Arena, a tie", {"conversation_a": [USER, ANSWER], "conversation_b": [USER, OTHER], "winner": "tie (bothbad)"}, Ranking([USER], ("a", "b"), (1.0, 1.0)), []),
]


@pytest.mark.parametrize(("row", "example", "unused"), [case[1:] for case in PREFERENCES], ids=[case[0] for case in PREFERENCES])
def test_preferences(write, row, example, unused):
    for file in write([row]):
        rows = read_preferences(file)
        assert rows == [example] and rows.unused == unused and read_rows(file).kind == "preferences"


def test_what_was_taken_for_what_is_said_where_the_names_are_others(write):
    [file, _] = write([{"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1, "domain": "x"}])
    assert read_preferences(file).remarks == [
        "read as Stanford's SHP (prompt: column history; chosen: column human_ref_A or human_ref_B, as labels says; "
        "rejected: the other one of human_ref_A and human_ref_B)", "columns that are not used: domain"]
    [file, _] = write([{"prompt": "q"}])
    assert read_prompts(file).remarks == [] and read_prompts("bundled").remarks == []


def test_every_column_that_a_format_reads_is_one_it_names(write):
    """Where a reader asked for a column that its format does not name, that column could be called unused, or stay unread in a Parquet file."""
    class Spy(dict):
        asked: set[str] = set()

        def get(self, key, default=None):
            self.asked.add(key)
            return super().get(key, default)

        def __getitem__(self, key):
            self.asked.add(key)
            return super().__getitem__(key)

    for kind, cases in (("prompts", PROMPTS), ("demonstrations", DEMONSTRATIONS), ("preferences", PREFERENCES)):
        for case in cases:
            row = case[1]
            form, each = next((form, each) for form, each in COLUMNS[kind].items() if set(form.split(" + ")) <= set(row))
            spy = Spy(row)
            spy.remarks = []
            spy.asked = set()
            each.convert(spy)
            named = {*form.split(" + "), *each.optional}
            assert spy.asked & set(row) <= named, (case[0], spy.asked)
            assert named <= KNOWN_COLUMNS


# Examples that stand in several rows

@pytest.mark.parametrize("rows", [FLAT, [TREE]], ids=["rows", "trees"])
def test_open_assistant(write, rows):
    thread = [USER, assistant("a"), user("r")]
    for file in write(rows, parquet=rows is FLAT):
        assert read_prompts(file) == [[USER], thread]
        assert read_demonstrations(file) == [Demonstration([USER], "a"), Demonstration(thread, "c")]
        ranked = read_preferences(file)
        assert ranked == [Ranking([USER], ("b", "a"), (2.0, 1.0))]
        lost = ["1 row skipped: the message that it replies to is not there (first: row 7)"]
        assert ranked.notes == (lost if rows is FLAT else [])
        assert ranked.unused == (["lang"] if rows is FLAT else ["tree_state"])
        assert read_rows(file).kind == "preferences"


def test_open_assistant_in_a_csv_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = ["message_id,parent_id,text,role,rank,deleted", "1,,q,prompter,,False", "2,1,b,assistant,1.0,False", "3,1,a,assistant,0.0,False"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    assert read_preferences("a.csv") == [Ranking([USER], ("b", "a"), (2.0, 1.0))]
    assert read_demonstrations("a.csv") == [Demonstration([USER], "a")]


def test_responses_of_a_prompt_in_rows_of_their_own(write):
    rows = [{"prompt": "q", "response": text, "helpfulness": score, "verbosity": 1} for text, score in (("a", 4), ("b", 1))]
    rows.append({"prompt": "alone", "response": "c", "helpfulness": 3, "verbosity": 1})
    for file in write(rows):
        read = read_preferences(file)
        assert read == [Ranking("q", ("a", "b"), (1.0, 2.0), (4.0, 1.0))] and read.unused == ["verbosity"] and read.numbers == [1]
        assert read.notes == ["1 row skipped: its prompt has no second response (first: row 3)"]


# Refused, in one line that says what to do

def test_labels_of_steps_are_refused_by_name(write):
    row = {"prompt": "q", "completions": ["first", "second"], "labels": [True, False]}
    for file in write([row]):
        assert "labels each step of an answer (TRL's stepwise supervision)" in refused(read_preferences, file)
        assert "give prompt and completion" in refused(read_rows, file)
        assert refused(read_demonstrations, file).endswith("; as they are, they make preferences or prompts")


@pytest.mark.parametrize(("row", "said"), [
    ({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]}, "a turn in 'messages' calls a tool; the roles are"),
    ({"messages": [USER, {"role": "assistant", "content": "I ask.", "tool_calls": [{"id": "1"}]}]}, "a turn in 'messages' calls a tool"),
    ({"messages": [USER, {"role": "assistant", "content": None, "function_call": {"name": "f"}}]}, "a turn in 'messages' calls a tool"),
    ({"messages": [USER, {"role": "tool", "content": "42"}, ANSWER]}, "'messages' has a turn with the role 'tool'; the roles are system, user"),
    ({"conversations": [*SHAREGPT[:1], {"from": "function_call", "value": "{}"}, *SHAREGPT]}, "with the role 'function_call'; the roles are"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER]}, "holds a part of the type 'image_url'; only text"),
    ({"messages": [USER, {"role": "assistant", "content": None}]}, "an assistant turn in 'messages' is missing"),
    ({"messages": [{"role": "wizard", "content": "q"}]}, "has a turn with the role 'wizard'; the roles are"),
    ({"text": json.dumps([USER, ANSWER])}, "'text' is a list of messages; name the column messages"),
    ({"instruction": "q", "history": "before", "output": "a"}, "'history' is a text; write a list of pairs"),
    ({"instruction": "q", "history": [["x"]], "output": "a"}, "'history' holds something other than pairs; write"),
    ({"instruction": "q", "system": 3, "output": "a"}, "'system' is a number; write a text"),
])
def test_what_cannot_be_read_is_named(write, row, said):
    [file] = write([row], parquet=False)
    message = refused(read_demonstrations, file)
    assert message.startswith("data.jsonl, row 1: ") and said in message


def test_few_rows_with_tools_are_skipped_and_counted(write):
    rows = [{"messages": [USER, ANSWER]}] * 99 + [{"messages": [USER, {"role": "tool", "content": "x"}, ANSWER]}]
    [file] = write(rows, parquet=False)
    read = read_demonstrations(file)
    assert len(read) == 99 and read.notes == ["1 row skipped: 'messages' has a turn with the role 'tool' (first: row 100)"]


def test_few_rows_without_a_rating_are_skipped_and_counted(write):
    rows = [{"instruction": "q", "completions": [{"response": "a", "overall_score": 2}, {"response": "b", "overall_score": 1}]}] * 98
    rows += [{"instruction": "q", "completions": []}, {"instruction": "q", "completions": [{"response": "a", "overall_score": None}, rows[0]["completions"][1]]}]
    [file] = write(rows, parquet=False)
    read = read_preferences(file)
    assert len(read) == 98 and len(read.notes) == 2 and "(first: row 99)" in read.notes[0] and "(first: row 100)" in read.notes[1]
    rows[99] = {"instruction": "q", "completions": [{"response": "a", "overall_score": "good"}, {"response": "b", "overall_score": 1}]}
    [file] = write(rows, parquet=False)
    assert "row 100: 'completions: fine-grained_score' holds something other than numbers" in refused(read_preferences, file)


# Values that look like others

@pytest.mark.parametrize("value", [None, float("nan"), "", " \n", [], {}, "nan", "None", "null", "[]", "<noinput>"])
def test_an_input_that_says_nothing_adds_nothing(write, value):
    [file] = write([{"instruction": "q", "input": value, "output": "a", "system": value, "history": value}], parquet=False)
    rows = read_demonstrations(file)
    assert rows == [Demonstration([USER], "a")]
    said = isinstance(value, str) and value.strip()
    assert any(f"1 row where the text '{value}' in 'input' stands for nothing" in note for note in rows.notes) == bool(said)


@pytest.mark.parametrize(("value", "kind"), [(3, "a number"), (0, "a number"), (1.5, "a number"), (True, "true or false"), (["x"], "a list"), ({"x": 1}, "an object")])
def test_an_input_that_is_no_text_is_refused(write, value, kind):
    [file] = write([{"instruction": "q", "input": value, "output": "a"}], parquet=False)
    assert refused(read_demonstrations, file) == f"data.jsonl, row 1: 'input' is {kind}; write a text"
    assert refused(read_prompts, file) == f"data.jsonl, row 1: 'input' is {kind}; write a text"


def test_a_system_text_beside_a_system_turn(write):
    [file] = write([{"messages": [SYSTEM, USER, ANSWER], "system": "other"}, {"messages": [SYSTEM, USER, ANSWER], "system": "s"}], parquet=False)
    rows = read_demonstrations(file)
    assert rows == [Demonstration([SYSTEM, USER], "a")] * 2
    assert rows.notes == ["1 row where the conversation has a system turn, so the system text beside it is left out (first: row 1)"]


def test_fields_of_turns_that_are_not_used_are_named(write):
    [file] = write([{"conversations": [SHAREGPT[0] | {"weight": 0}, SHAREGPT[1] | {"weight": 1, "name": None}]}], parquet=False)
    assert read_demonstrations(file).notes == ["1 row where the turns in 'conversations' have weight, not used here (first: row 1)"]


@pytest.mark.parametrize(("good", "bad"), [
    (True, False), (1, 0), (1, -1), (1.0, 0.0), ("True", "False"), ("good", "bad"), ("👍", "👎"), ("👍🏽", "👎🏿"), ("thumbs_up", "Thumbs-Down"), ("yes", "no"),
    ("desirable", "undesirable"), ("+1", "-1")])
def test_thumbs_of_many_kinds(write, good, bad):
    for column in ("label", "kto_tag"):
        [file] = write([{"prompt": "q", "completion": "a", column: good}, {"prompt": "q", "completion": "b", column: bad}], parquet=False)
        rows = read_demonstrations(file)
        assert rows == [Demonstration("q", "a")] and rows.notes == [f"1 row skipped: the {column} is false (first: row 2)"]


@pytest.mark.parametrize("label", [None, "", " ", float("nan"), "nan", "None", "null"])
def test_a_missing_thumb_is_neither_up_nor_down(write, label):
    good = {"prompt": "q", "completion": "a", "label": True}
    [file] = write([good, {"prompt": "q", "completion": "b", "label": label}, {"prompt": "q", "completion": "c"}], parquet=False)
    rows = read_demonstrations(file)
    assert rows == [Demonstration("q", "a")] and rows.notes == ["2 rows skipped: the label is missing (first: row 2)"]
    [file] = write([{"prompt": "q", "completion": "b", "label": label}], parquet=False)
    assert "leaves nothing to use: 1 row skipped: the label is missing" in refused(read_demonstrations, file)


def test_thumbs_that_could_mean_two_things_are_refused(write):
    [file, _] = write([{"prompt": "q", "completion": "a", "label": label} for label in (1, 0, -1)])
    assert "'label' holds both 0 and -1" in refused(read_demonstrations, file)
    [file, _] = write([{"prompt": "q", "completion": "a", "label": label} for label in (1, 2)])
    assert "row 2: 'label' is '2'; a thumb is true or false" in refused(read_demonstrations, file)


@pytest.mark.parametrize(("margin", "read"), [(1.5, 1.5), ("1.5", 1.5), (" 2 ", 2.0), ("1e-1", 0.1), (None, 0.0), ("", 0.0), (float("nan"), 0.0), ("nan", 0.0), (0, 0.0)])
def test_margins(write, margin, read):
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    for row in (pair, {"chosen": HH + " a", "rejected": HH + " b"}, {"instruction": "q", "chosen": "a", "rejected": "b"}):
        [file] = write([row | {"margin": margin}], parquet=False)
        assert read_preferences(file)[0].margin == read


@pytest.mark.parametrize(("margin", "said"), [("much", "'margin' is a text ('much'); write a number"), ("1,5", "a text ('1,5'); write a number, with a decimal point"),
                                              (-1, "'margin' is -1; a margin is at least 0: swap"), ("-0.5", "'margin' is -0.5; a margin is"),
                                              (float("inf"), "'margin' is a number ('inf'); write"), (True, "'margin' is true or false"), ([1], "'margin' is a list")])
def test_margins_that_are_none(write, margin, said):
    [file] = write([{"prompt": "q", "chosen": "a", "rejected": "b", "margin": margin}], parquet=False)
    assert said in refused(read_preferences, file)


@pytest.mark.parametrize("text", [
    "\n\nHuman: q\n\nAssistant: {}", "Human: q\n\nAssistant: {}", "\r\n\r\nHuman: q\r\n\r\nAssistant: {}", "\nHuman: q\nAssistant: {}", "Human: q\r\nAssistant: {}",
    "\n\nHuman: q\nAssistant: {}", " \n\nHuman:q\n\nAssistant:{}"])
def test_dialogues_with_other_line_ends(write, text):
    [file] = write([{"chosen": text.format("a"), "rejected": text.format("b")}], parquet=False)
    assert read_preferences(file) == [Preference([USER], "a", "b")]


def test_a_dialogue_that_speaks_of_an_assistant_keeps_its_turns(write):
    inner = "x\nAssistant: y"
    [file] = write([{"chosen": HH + " " + inner + "\n\nHuman: r\n\nAssistant: a", "rejected": HH + " " + inner + "\n\nHuman: r\n\nAssistant: b"}], parquet=False)
    assert read_preferences(file) == [Preference([USER, assistant(inner), user("r")], "a", "b")]
    [file] = write([{"prompt": "Human: is that what you are?", "completion": "Yes."}], parquet=False)
    assert read_demonstrations(file) == [Demonstration("Human: is that what you are?", "Yes.")]


def test_a_dialogue_beside_an_answer_is_refused(write):
    """Else the one would be an answer that holds the question, and learned as such."""
    [file] = write([{"prompt": HH, "chosen": HH + " a", "rejected": " b"}], parquet=False)
    assert "row 1: of chosen and rejected, only 'chosen' is a dialogue of Human and Assistant; write both" in refused(read_preferences, file)


def test_empty_rows_of_plain_text_are_skipped_and_counted(write):
    """wikitext has one between any two paragraphs."""
    for file in write([{"text": ""}, {"text": " = Title = \n"}, {"text": ""}, {"text": "A paragraph.\n"}, {"text": None}]):
        rows = read_demonstrations(file)
        assert [row.completion for row in rows] == [" = Title = \n", "A paragraph.\n"]
        assert rows.notes == ["3 rows skipped: 'text' is empty (first: row 1)"]
