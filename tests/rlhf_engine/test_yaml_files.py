"""YAML: plain values, each key once, and one line for whatever else a file may hold."""

import pytest

from rlhf_engine.errors import LONGEST_MESSAGE, UserError, one_line, short_repr
from rlhf_engine.stages import make_config
from rlhf_engine.yaml_files import parse_yaml, read_yaml, yaml_text

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi"))


def refused(tmp_path, text: str) -> str:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < 300 + len(str(path))
    return message


@pytest.mark.parametrize(("text", "says"), [
    ("steps: 1\nseed: 2\nsteps: 3\n", "line 3: not valid YAML ('steps' is there twice"), ("a: {b: 1, b: 2}\n", "'b' is there twice"),
    ("[" * 2000 + "]" * 2000, "nested too deeply"), ("{" * 3000, "nested too deeply"), ("steps: !!python/name:os.system\n", "line 1"),
    ("<<: *nothing\n", "line 1"), ("a: 1\n---\na: 2\n", "line 2"), ("? [1, 2]\n: 3\n", "line 1"), ("- &a [*a]\n", "list")])
def test_what_is_no_mapping_of_plain_values_is_refused(tmp_path, text, says):
    assert says in refused(tmp_path, text)


def test_what_is_valid_is_read_as_before(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("\ufeffbase: &b {steps: 1, seed: 2}\nmore: {<<: *b, steps: 3}\n", encoding="utf-8")
    assert read_yaml(path) == {"base": {"steps": 1, "seed": 2}, "more": {"steps": 3, "seed": 2}}
    assert parse_yaml(yaml_text({"a": "ü", "b": None})) == {"a": "ü", "b": None}


def test_a_value_that_would_fill_the_memory_as_text_is_shown_in_short():
    values = parse_yaml(BOMB + "steps: *i\n")
    with pytest.raises(UserError) as caught:
        make_config("sft", {"steps": values["steps"]})
    assert str(caught.value).startswith("--steps is [[[") and len(str(caught.value)) < 400


@pytest.mark.parametrize("value", ["x" * 10_000, 10 ** 5000, [[[[[1]]]]], {"a": "b" * 500}, b"x" * 900], ids=type)
def test_a_value_is_shown_in_short(value):
    assert len(short_repr(value)) < 400


def test_a_message_is_one_line_that_can_be_seen():
    assert one_line("a\nb\t c") == "a b c"
    assert one_line("größe 漢字 🎉") == "größe 漢字 🎉"
    assert one_line("x\u202ey\x1b[31m\ud800\x00") == "x\\u202ey\\x1b[31m\\ud800\\x00"
    assert len(one_line("x" * 10**6)) <= LONGEST_MESSAGE and " ... " in one_line("x" * 10**6)


@pytest.mark.parametrize(("text", "value"), [("1:30", "1:30"), ("010", "010"), ("1_0", 10), ("0x1f", 31), ("-2", -2), ("1.5", 1.5), ("-.5", -0.5), (".inf", float("inf")), ("1.0e-4", 1e-4)])
def test_numbers_are_what_they_look_like(text, value):
    """YAML 1.1 reads 1:30 as 90 and 010 as 8, so that a run would have other settings than its file seems to say."""
    assert parse_yaml(f"a: {text}") == {"a": value}


def test_what_a_yaml_file_lacks_is_said_in_plain_words(tmp_path):
    for content, said in ((b"", "found nothing"), (b"model:m", "with a space after the colon"), ("a: 1".encode("utf-16"), "save the file as UTF-8"), (b'a: "C:\\models"', "'single quotes'")):
        (tmp_path / "c.yaml").write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_yaml(tmp_path / "c.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(tmp_path)


@pytest.mark.parametrize("value", ["no", "5", "2024-01-01"])
def test_a_name_that_yaml_takes_for_something_else(tmp_path, cli, value):
    (tmp_path / "c.yaml").write_text(f"output: {value}\n")
    code, _, err = cli("sft", "--config", tmp_path / "c.yaml")
    assert code == 2 and 'must be a text: in YAML, put it into "quotes"' in err
