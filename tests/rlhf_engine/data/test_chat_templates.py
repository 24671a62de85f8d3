"""Chat templates that know content as parts only, have no system turn, or refuse an answer at the end: the content is in the text all the same."""

from types import SimpleNamespace

import pytest

from rlhf_engine.data.readers import encode_example, encode_examples, encode_prompt, encode_prompts, render
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError
from tests.rlhf_engine.data.conftest import CHATML, SimpleTemplate, text_of

USER, ANSWER = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "I am fine."}
SYSTEM = {"role": "system", "content": "Be kind."}
TURN = "<|start|>{{ m.role }}\n%s<|end|>\n"
LOOP = "{%% for m in messages %%}%s{%% endfor %%}{%% if add_generation_prompt %%}<|start|>assistant\n{%% endif %%}"
PARTS = LOOP % (TURN % "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}")
FIRST_PART = LOOP % (TURN % "{{ m.content[0].text }}")
STRICT_PARTS = LOOP % (TURN % "{% if m.content is string %}{{ raise_exception('content must be a list') }}{% endif %}{{ m.content[0]['text'] }}")
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + LOOP % (TURN % "{{ m.content }}")
DEAF = LOOP % ("{% if m.role != 'system' %}" + TURN % "{{ m.content }}" + "{% endif %}")
ALTERNATES = ("{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant') }}"
              "{% endif %}{% endfor %}" + LOOP % (TURN % "{{ m.content }}"))
LAST_IS_USER = "{% if messages[-1].role != 'user' %}{{ raise_exception('The last message must be from the user') }}{% endif %}" + LOOP % (TURN % "{{ m.content | trim }}")
THINKS = LOOP % ("{% set text = m.content %}{% if m.role == 'assistant' %}{% set text = m.content.split('</think>')[-1] %}{% endif %}" + TURN % "{{ text | trim }}")


@pytest.fixture
def with_template(chat):
    return lambda template: SimpleTemplate(chat, template)


@pytest.mark.parametrize("template", [PARTS, FIRST_PART, STRICT_PARTS])
@pytest.mark.parametrize("prompt", ["hello", [USER], [SYSTEM, USER], [USER, ANSWER, USER]])
def test_a_template_that_knows_parts_only_gets_parts(with_template, chat, template, prompt: Prompt):
    tokenizer, usual = with_template(template), with_template(CHATML.replace("{{ bos_token }}", ""))
    assert encode_example(tokenizer, prompt, "fine", chat.eos_token_id) == encode_example(usual, prompt, "fine", chat.eos_token_id)
    assert encode_prompt(tokenizer, prompt) == encode_prompt(usual, prompt) and "hello" in text_of(chat, encode_prompt(tokenizer, prompt).ids)
    notes = encode_examples(SimpleNamespace(tokenizer=tokenizer, stop_ids=[chat.eos_token_id]), [(prompt, "fine")])[1]
    assert notes == []


def test_text_of_parts_cannot_become_a_control_token(with_template, chat):
    row = encode_example(with_template(PARTS), "hello<|end|>", "fine<|start|>", chat.eos_token_id)
    assert row.ids.count(chat.eos_token_id) == 2 and text_of(chat, row.completion_ids) == "fine<|start|><|end|>"


@pytest.mark.parametrize(("template", "why"), [
    (NO_SYSTEM, 'refuses it with "System role not supported"'), (DEAF, "leaves out the text of the system turn"),
    (ALTERNATES, 'refuses it with "Conversation roles must alternate user/assistant"')])
def test_a_template_without_a_system_turn_gets_its_text_before_the_users(with_template, chat, template, why):
    tokenizer = with_template(template)
    assert render(tokenizer, [SYSTEM, USER]) == "<|start|>user\nBe kind.\n\nhello<|end|>\n<|start|>assistant\n"
    assert render(tokenizer, [SYSTEM, USER, ANSWER, USER], "fine").startswith("<|start|>user\nBe kind.\n\nhello<|end|>\n<|start|>assistant\nI am fine.<|end|>")
    assert render(tokenizer, [USER]) == "<|start|>user\nhello<|end|>\n<|start|>assistant\n"
    backbone = SimpleNamespace(tokenizer=tokenizer, stop_ids=[chat.eos_token_id])
    note = f"the model's chat template has no system turn (it {why}): in 1 row the system text stands before the first user turn"
    assert encode_prompts(backbone, [[SYSTEM, USER], [USER], "hello", ""])[1] == [note]
    assert encode_examples(backbone, [([SYSTEM, USER], "fine"), ([USER], "fine")])[1] == [note]
    assert encode_prompts(backbone, [[USER]])[1] == []


def test_a_template_that_wants_the_last_turn_to_be_the_users(with_template, chat):
    """Its conversation with an answer cannot be written, but that of the prompt can, and the answer follows it."""
    tokenizer = with_template(LAST_IS_USER)
    row = encode_example(tokenizer, [USER], "fine", chat.eos_token_id)
    assert text_of(chat, row.ids) == "<|start|>user\nhello<|end|>\n<|start|>assistant\nfine<|end|>"
    backbone = SimpleNamespace(tokenizer=tokenizer, stop_ids=[chat.eos_token_id])
    assert encode_examples(backbone, [("hello", "fine")])[1] == [
        'the model\'s chat template writes no conversation that ends with an answer (it refuses it with "The last message must be from the user"): '
        "answers stand behind the text of their prompt, with an end token"]
    assert encode_prompts(backbone, ["hello"])[1] == []


def test_the_thoughts_of_an_answer_are_taught_and_those_of_earlier_ones_may_go(with_template, chat):
    tokenizer = with_template(THINKS)
    row = encode_example(tokenizer, [USER, {"role": "assistant", "content": "<think>old</think>fine"}, USER], "<think>new</think>\n\nfine", chat.eos_token_id)
    text = text_of(chat, row.ids)
    assert "new" in text and "old" not in text and text.endswith("assistant\n<think>new</think>\n\nfine<|end|>")


@pytest.mark.parametrize(("template", "said"), [
    ("{{ raise_exception('no') }}", "its chat template does not work (no); correct chat_template in its files, or choose another model"),
    ("nothing", "its chat template does not work (leaves out the text of the user turn); correct"),
    ("{{ messages[0].content + 1 }}", "does not work (can only concatenate str"),
    ("{% for m in messages %}", "does not work (Unexpected end of template")])
def test_a_template_that_works_for_nothing_is_one_clear_line(with_template, template, said):
    with pytest.raises(UserError) as error:
        encode_prompt(with_template(template), "hello")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_template_that_leaves_a_turn_out_is_one_clear_line(with_template):
    only_last = with_template("{{ messages[-1].content }}")
    assert render(only_last, "hello", "fine") == "hellofine"
    with pytest.raises(UserError) as error:
        encode_prompt(only_last, [USER | {"content": "one"}, ANSWER, USER])
    assert "cannot write a conversation of the turns user, assistant, user: it leaves out the text of the user turn; take the rows with such turns out" in str(error.value)


def test_a_template_that_asks_for_a_system_turn_works_where_there_is_one(with_template, chat):
    picky = with_template("{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}" + LOOP % (TURN % "{{ m.content }}"))
    row = encode_example(picky, [SYSTEM, USER], "fine", chat.eos_token_id)
    assert text_of(chat, row.ids) == "<|start|>system\nBe kind.<|end|>\n<|start|>user\nhello<|end|>\n<|start|>assistant\nfine<|end|>"
    with pytest.raises(UserError, match='turns user: it refuses it with "system first"; begin each conversation with a system turn'):
        encode_prompt(picky, [USER])


def test_a_refusal_names_the_row(with_template, chat):
    tokenizer = with_template("{% for m in messages %}{% if m.content|length > 20 %}{{ raise_exception('too long') }}{% endif %}{{ m.content }}{% endfor %}")
    backbone = SimpleNamespace(tokenizer=tokenizer, stop_ids=[chat.eos_token_id])
    for encode, rows in ((encode_prompts, ["hi", "a long prompt " * 9]), (encode_examples, [("hi", "a"), ("a long prompt " * 9, "a")])):
        with pytest.raises(UserError, match=r'refuses it with "too long".* \(the first is the one whose prompt is .a long prompt'):
            encode(backbone, rows)
