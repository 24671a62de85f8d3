"""The bridge to lm-eval: what it is asked, by hand; and with the package, where it is installed, against its own model."""

import importlib.util
import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.tax import lm_eval_tasks
from rlhf_engine.evaluation.tax.checkpoints import Checkpoint
from rlhf_engine.evaluation.tax.lm_eval_bridge import GENERATED, Requests, make_language_model, read_settings, until
from rlhf_engine.evaluation.tax.lm_eval_tasks import compare_rows, metrics_of, row_values, task_in
from rlhf_engine.model.backbone import Backbone

TASK = """task: toy
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
"""
PAIRS = [("once upon a time", " there was a dog"), ("", "the cat"), ("a dog ", "ran home"), ("the park", " and the garden with her mom")]


def asked(*args) -> SimpleNamespace:
    return SimpleNamespace(args=args)


def bridge(backbone: Backbone, role: str | None = None) -> Requests:
    requests = Requests()
    requests.backbone, requests.role = backbone, role
    return requests


@torch.no_grad()
def plain(model, given: list[int], charged: list[int]) -> float:
    logprobs = model(torch.tensor([given + charged])).logits[0].double().log_softmax(-1)
    return sum(logprobs[len(given) + i - 1, token].item() for i, token in enumerate(charged))


def test_likelihoods_are_those_of_transformers(tiny_model):
    backbone = Backbone.load(str(tiny_model))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval(), backbone.tokenizer
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    rows = []
    for context, text in PAIRS:
        whole = tokenizer(context + text)["input_ids"]
        given = tokenizer(context.rstrip())["input_ids"] if context else [start]
        rows.append((given, whole[len(given):] if context else tokenizer(text, add_special_tokens=False)["input_ids"]))
    answers = bridge(backbone).loglikelihood([asked(*pair) for pair in PAIRS])
    assert [logprob for logprob, _ in answers] == pytest.approx([plain(model, *row) for row in rows], abs=1e-4)
    best = model(torch.tensor([rows[0][0]])).logits[0, -1].argmax().item()
    token = tokenizer.decode([best])
    if tokenizer(PAIRS[0][0] + token)["input_ids"] == [*rows[0][0], best]:
        assert bridge(backbone).loglikelihood([asked(PAIRS[0][0], token)])[0][1] is True


def test_long_contexts_lose_their_beginning(tiny_gpt2):
    backbone = Backbone.load(str(tiny_gpt2))
    requests = bridge(backbone)
    given, charged = requests.encode_pair("the dog " * 200, "ran")
    assert len(given) + len(charged) == backbone.longest + 1 and given == requests.encode("the dog " * 200 + "ran")[-len(given) - len(charged):-len(charged)]
    given, charged = requests.encode_pair("a", " the dog" * 200)
    assert len(given) == 1 and len(charged) == backbone.longest
    assert requests.loglikelihood([asked("a", " the dog" * 200)])[0][0] < 0 and requests.loglikelihood([asked("a", "")]) == [(0.0, True)]


def test_a_role_is_measured_as_it_is(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy")
    with torch.no_grad():
        for parameter in backbone.parameters("policy"):
            parameter.add_(0.1)
    base, policy = (bridge(backbone, role).loglikelihood([asked(*PAIRS[0])])[0][0] for role in (None, "policy"))
    assert abs(base - policy) > 1e-3


def test_answers_end_where_the_task_says(tiny_llama):
    requests = bridge(Backbone.load(str(tiny_llama)))
    settings = {"until": [], "max_gen_toks": 30, "do_sample": False}
    whole, other, again = requests.generate_until([asked("once upon", settings), asked("the dog", {**settings, "max_gen_toks": 5}), asked("once upon", settings)])
    assert whole == again and whole and len(other) < len(whole)
    end = whole[len(whole) // 2:len(whole) // 2 + 3]
    assert requests.generate_until([asked("once upon", {**settings, "until": [end]})]) == [whole.split(end)[0]]
    with pytest.raises(UserError, match="wants answers of 128 tokens, and .* knows 128; choose another task"):
        requests.generate_until([asked("a", {"max_gen_toks": 128})])


def test_settings_of_answers():
    sampling, ends = read_settings({"until": "\n", "max_new_tokens": 7})
    assert (sampling.max_new_tokens, sampling.temperature, ends) == (7, 0.0, ["\n"])
    sampling, ends = read_settings({"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 4})
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.top_k, ends) == (GENERATED, 0.7, 0.9, 4, [])
    assert read_settings({"do_sample": False, "temperature": 0.7})[0].temperature == 0 and read_settings({"temperature": 0.0})[0].temperature == 0
    with pytest.raises(UserError, match="sets 'num_beams' for its answers, which is not known here"):
        read_settings({"num_beams": 4})
    assert until("a. b! c", ["!", "."]) == "a" and until("abc", []) == "abc"


def test_metrics_and_their_differences():
    results = {"toy": metrics_of({"alias": "toy", "acc,none": 0.5, "acc_stderr,none": 0.1, "f1,none": 0.3, "f1_stderr,none": "N/A", "em,strict": 1.0})}
    assert results["toy"] == {"acc": {"value": 0.5, "stderr": 0.1}, "f1": {"value": 0.3, "stderr": None}, "em,strict": {"value": 1.0, "stderr": None}}
    samples = [{"doc_id": i, "filter": "none", "metrics": ["acc", "f1"], "acc": float(i % 2), "f1": (1, 2)} for i in (3, 1, 0, 2)]
    ours = {"toy": row_values(samples)}
    assert ours == {"toy": {"acc": [0.0, 1.0, 0.0, 1.0]}}
    compare_rows(results, ours, {"toy": {"acc": [1.0, 1.0, 1.0, 1.0]}}, {"toy": {"acc": True}})
    acc = results["toy"]["acc"]
    assert acc["difference"] == -0.5 and -1 <= acc["difference_low"] < -0.5 < acc["difference_high"] and acc["verdict"] == "unclear"
    assert "difference" not in results["toy"]["f1"]


def test_the_name_of_a_task_in_a_file(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text('# mine\ntask: "toy" # a toy\ndescription: !function utils.f\n')
    assert task_in(file) == "toy"
    file.write_text("group: several\ntask:\n  - toy\n")
    assert task_in(file) == "several"
    file.write_text("dataset: x\n")
    with pytest.raises(UserError, match="names no task; add a line such as `task: a`"):
        task_in(file)
    with pytest.raises(UserError, match="cannot be read"):
        task_in(tmp_path / "none.yaml")


def test_without_the_package_one_line_says_what_to_install(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(lm_eval_tasks.importlib.util, "find_spec", lambda name: None)
    code, _, err = cli("tax", "--adapter", "none", "--lm-eval", "hellaswag", "--output", tmp_path / "out")
    assert code == 2 and "which is not installed: run `pip install lm-eval`, or leave --lm-eval out" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


# -- with the package ---------------------------------------------------------------------------------------------------

needs_lm_eval = pytest.mark.skipif(importlib.util.find_spec("lm_eval") is None, reason="lm-eval is optional")


@needs_lm_eval
def test_the_same_numbers_as_its_own_model(shared):
    from lm_eval.models.huggingface import HFLM
    path = str(shared / "stories260k")
    ours, theirs = make_language_model(Backbone.load(path, dtype="fp32"), None), HFLM(pretrained=path, device="cpu", dtype="float32", batch_size=2)
    requests = [asked(*pair) for pair in [*PAIRS, ("Once upon a time", " there was a little girl"), ("a dog ran. " * 300, "It was big.")]]
    for (a, greedy), (b, expected) in zip(ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True), strict=True):
        assert a == pytest.approx(b, abs=1e-3) and greedy == expected
    # Its rolling likelihood has a second BOS in front where the tokenizer adds one, unless it is told not to.
    theirs = HFLM(pretrained=path, device="cpu", dtype="float32", batch_size=2, add_bos_token=False)
    texts = [asked("Once upon a time there was a dog."), asked("The cat sat on the mat. " * 120)]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(theirs.loglikelihood_rolling(texts, disable_tqdm=True), abs=1e-2)


@needs_lm_eval
def test_a_task_of_a_file_on_the_command_line(cli, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = [{"question": "once upon a", "choices": [" time", " dog"], "answer": i % 2} for i in range(6)]
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "toy.yaml").write_text(TASK.format(file=tmp_path / "toy.jsonl"))
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy")
    backbone.save_role("policy", tmp_path / "policy")
    code, out, err = cli("tax", "--model", tiny_llama, "--adapter", tmp_path / "policy", "--text", "none", "--pairs", "none",
                         "--lm-eval", tmp_path / "toy.yaml", "--output", tmp_path / "out")
    assert code == 0, err
    tasks = json.loads((tmp_path / "out" / "report.json").read_text())["tasks"]
    first = lm_eval_tasks.measure_tasks(backbone, [Checkpoint("base", None)], [str(tmp_path / "toy.yaml")])["base"]["toy"]["acc"]["value"]
    assert tasks["base"]["toy"]["acc"]["value"] == first == 0.5 and tasks[str(tmp_path / "policy")]["toy"]["acc"]["difference"] == 0
    code, _, err = cli("tax", "--adapter", "none", "--lm-eval", "helaswag", "--output", tmp_path / "other")
    assert code == 2 and "did you mean hellaswag?" in err
