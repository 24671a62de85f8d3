"""Every option of PEFT's LoRA: all roles hold it as plain PEFT does, or it is refused and nothing has changed."""

import json
from dataclasses import fields

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from benchmarks.surveys.lora_options import (
    BASES,
    IDS,
    OPTIONS,
    make_adapter,
    option,
    peft_logits,
    peft_model,
    role_logits,
    save_base,
)
from rlhf_engine.cli import main
from rlhf_engine.errors import UserError
from rlhf_engine.export.merge import write_merged
from rlhf_engine.export.source import Source
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, sample
from rlhf_engine.model.logprobs import token_logprobs

NO_MEANING = {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
              "megatron_core", "runtime_config", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"}
"""Fields of LoraConfig that belong to another option, or do not change what an adapter computes."""
MERGED_LIKE_ANY_OTHER = {"exclude_modules", "layers_to_transform", "lora_dropout", "bias", "init_lora_weights"}
"""Options that leave the sum of base and adapter as it is in other adapters."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The tiny bases of the survey."""
    place = tmp_path_factory.mktemp("bases")
    return {name: save_base(name, place / name) for name in BASES}


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-5)


def base_weights(backbone):
    """Copies of the base's own weights, without LoRA's."""
    return {name.replace(".base_layer", ""): value.clone() for name, value in backbone.base.state_dict().items()
            if "lora_" not in name}


def with_another(base) -> Backbone:
    """A base with a role of our own on it, which must not move."""
    backbone = Backbone.load(str(base))
    backbone.new_role("beside", rank=2)
    with torch.no_grad():
        for parameter in backbone.parameters("beside"):
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(0))
    return backbone


def merged_logits(backbone, base, folder, place):
    write_merged(Source("it", base, folder), place, "fp32")
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(place).eval()(IDS).logits


def greedy(backbone, role):
    with backbone.use(role):
        return sample(backbone, [IDS[0].tolist()], Sampling(6, temperature=0), torch.Generator())[0]


def peft_gradients(model):
    """Gradients of plain PEFT, under the names in its files."""
    logps = model(IDS[:1]).logits.log_softmax(-1)[0, :-1].gather(-1, IDS[0, 1:, None])
    logps.sum().backward()
    return {name.removeprefix("base_model.model.").replace(".default", "").removesuffix(".weight"): p.grad
            for name, p in model.named_parameters() if p.grad is not None}


# -- the options -------------------------------------------------------------------------------------------------------

def test_every_option_of_peft_is_tried():
    tried = {name for chosen in OPTIONS for name in chosen.settings} | {"r", "lora_alpha", "target_modules"}
    assert {f.name for f in fields(LoraConfig)} - tried - NO_MEANING == set()


@pytest.mark.parametrize("chosen", [chosen for chosen in OPTIONS if not chosen.refused], ids=lambda chosen: chosen.name)
def test_roles_hold_an_option_as_peft_does(chosen, bases, tmp_path):
    base, folder = bases[chosen.base], tmp_path / "made"
    make_adapter(chosen, base, folder)
    plain = peft_model(base, folder, is_trainable=True)
    with torch.no_grad():
        expected = plain(IDS).logits
    backbone = with_another(base) if "experts" not in chosen.name and "param" not in chosen.name else Backbone.load(str(base))
    others = [role for role in ("beside",) if role in backbone.roles]
    own, before = base_weights(backbone), {role: role_logits(backbone, role) for role in [None, *others]}
    assert (expected - before[None]).abs().max() > 0.05, "the adapter does nothing, so this test would show nothing"

    backbone.load_role("policy", folder)
    backbone.copy_role("reference", "policy")
    backbone.copy_role("value", "reference")
    backbone.train("policy")
    close(role_logits(backbone, "policy"), expected)
    assert torch.equal(role_logits(backbone, "reference"), role_logits(backbone, "policy"))
    assert torch.equal(role_logits(backbone, "value"), role_logits(backbone, "policy"))
    theirs = plain.generate(input_ids=IDS[:1], max_new_tokens=6, do_sample=False, pad_token_id=1)[0, IDS.shape[1]:].tolist()
    assert greedy(backbone, "reference") == theirs

    with backbone.use("policy"):  # training it has PEFT's gradients, and moves no other role
        token_logprobs(backbone, IDS[:1], torch.zeros(7, dtype=torch.long), torch.arange(7)).sum().backward()
    theirs = peft_gradients(plain)
    ours = {name.removesuffix(".weight"): p.grad for name, p in backbone.named_parameters("policy").items()}
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        close(gradient / (1 + theirs[name].abs().max()), theirs[name] / (1 + theirs[name].abs().max()))
    with torch.no_grad():
        for parameter in backbone.parameters("policy"):
            parameter.add_(0.1)
    close(role_logits(backbone, "reference"), expected)
    assert (role_logits(backbone, "policy") - expected).abs().max() > 0.01

    backbone.save_role("reference", tmp_path / "saved")
    close(peft_logits(base, tmp_path / "saved"), expected)
    backbone.fill_role("policy", tmp_path / "saved")  # a resumed run
    assert torch.equal(role_logits(backbone, "policy"), role_logits(backbone, "reference"))
    backbone.drop_role("value")
    backbone.load_role("value", tmp_path / "saved")
    assert torch.equal(role_logits(backbone, "value"), role_logits(backbone, "policy"))
    backbone.save_role("value", tmp_path / "again")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    for role, logits in before.items():
        assert torch.equal(role_logits(backbone, role), logits)
    for role in list(backbone.roles):
        backbone.drop_role(role)
    after = base_weights(backbone)
    assert after.keys() == own.keys() and all(torch.equal(value, own[name]) for name, value in after.items())
    if chosen.settings.keys() & MERGED_LIKE_ANY_OTHER:
        return
    if chosen.merged:
        close(merged_logits(backbone, base, tmp_path / "saved", tmp_path / "merged"), expected)
    else:
        with pytest.raises(UserError, match="leave out --merge"):
            merged_logits(backbone, base, tmp_path / "saved", tmp_path / "merged")


@pytest.mark.parametrize("chosen", [chosen for chosen in OPTIONS if chosen.refused], ids=lambda chosen: chosen.name)
def test_what_no_role_can_hold_is_refused_by_name_and_nothing_changes(chosen, bases, tmp_path):
    base = bases[chosen.base]
    make_adapter(chosen, base, tmp_path)
    for backbone in (Backbone.load(str(base)), with_another(base)):
        roles, own = list(backbone.roles), base_weights(backbone)
        before = [role_logits(backbone, role) for role in [None, *roles]]
        with pytest.raises(UserError, match=chosen.refused) as refusal:
            backbone.load_role("policy", tmp_path)
        assert "\n" not in str(refusal.value) and str(tmp_path) in str(refusal.value)
        assert backbone.roles == roles
        assert all(torch.equal(role_logits(backbone, role), logits) for role, logits in zip([None, *roles], before))
        after = base_weights(backbone)
        assert all(torch.equal(value, own[name]) for name, value in after.items()) and after.keys() == own.keys()
        backbone.new_role("policy")  # the base is as good as new


# -- files that are not what they should be ------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def plain(bases, tmp_path_factory):
    """(base, folder of a plain adapter) to damage copies of."""
    folder = tmp_path_factory.mktemp("plain")
    make_adapter(option("plain"), bases["llama"], folder)
    return bases["llama"], folder


@pytest.fixture(scope="module")
def loaded(plain):
    """A base that every bad adapter is tried on, one after another: a refusal leaves nothing behind."""
    return Backbone.load(str(plain[0]))


def damaged(plain, place, *, config=None, weights=None):
    """A copy of the plain adapter with another configuration or other weights."""
    values, tensors = json.loads((plain[1] / "adapter_config.json").read_text()), load_file(plain[1] / "adapter_model.safetensors")
    values.update(config or {})
    (place / "adapter_config.json").write_text(json.dumps(values))
    save_file({k: v.clone() for k, v in (weights(tensors) if weights else tensors).items()}, place / "adapter_model.safetensors")
    return place


def refused(loaded, folder) -> str:
    before = role_logits(loaded, None)
    with pytest.raises(UserError) as refusal:
        loaded.load_role("policy", folder)
    assert loaded.roles == [] and torch.equal(role_logits(loaded, None), before)
    assert not any("lora" in name.lower() for name in loaded.base.state_dict())
    line = str(refusal.value)
    assert "\n" not in line and line.startswith(f"{folder}: ")
    return line


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
RENAMED = {
    "an adapter's name": lambda name: name.replace("lora_A.", "lora_A.default.").replace("lora_B.", "lora_B.default."),
    "no prefix": lambda name: name.removeprefix("base_model.model."),
    "half a prefix": lambda name: name.replace("base_model.model.", "base_model."),
    "a compiled model": lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
    "a model that sees": lambda name: name.replace("model.layers", "model.language_model.layers"),
    "another library": lambda name: name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"),
    "a wrapper of FSDP": lambda name: name.replace("model.layers", "_fsdp_wrapped_module.model.layers"),
    "DeepSpeed": lambda name: name.replace("base_model.model.", "base_model.model.module."),
    "PEFT on PEFT": lambda name: name.replace("base_model.model.", "base_model.model.base_model.model."),
}
ADVICE = {"an adapter's name": "still hold the adapter's name, default", "a compiled model": "from torch.compile",
          "a wrapper of FSDP": "from FSDP", "DeepSpeed": "from DistributedDataParallel or DeepSpeed", "PEFT on PEFT": "save the inner one"}


@pytest.mark.parametrize("kind", RENAMED)
def test_weights_under_other_names_are_refused_by_a_name(kind, plain, loaded, tmp_path):
    def rename(tensors):
        return {RENAMED[kind](name): value for name, value in tensors.items()}
    if kind == "no prefix":  # the names are in no doubt; PEFT would leave the adapter at random
        loaded.load_role("policy", damaged(plain, tmp_path, weights=rename))
        close(role_logits(loaded, "policy"), peft_logits(*plain))
        loaded.drop_role("policy")
        return
    line = refused(loaded, damaged(plain, tmp_path, weights=rename))
    assert "its file holds" in line and "for which the base has no place" in line
    assert ADVICE.get(kind, "") in line


def test_an_adapter_of_this_very_base_is_not_sent_to_it(plain, loaded, tmp_path):
    def without_first(tensors):
        return {name: value for name, value in tensors.items() if name != FIRST}
    line = refused(loaded, damaged(plain, tmp_path, weights=without_first, config={"base_model_name_or_path": loaded.name}))
    assert "use it with the base" not in line and "save it again" in line


@pytest.mark.parametrize("change, words", [
    (lambda w: {k: v for k, v in w.items() if k != FIRST}, "lacks model.layers.0.self_attn.q_proj.lora_A.weight, which"),
    (lambda w: {k: v for k, v in w.items() if "layers.1" not in k}, "lacks model.layers.1.self_attn.q_proj.lora_A.weight and 3 more"),
    (lambda w: {**w, FIRST: torch.zeros(2, 9)}, "has shape (2, 9), the base needs (2, 16)"),
    (lambda w: {**w, FIRST: torch.zeros(0)}, "has shape (0,) .* ZeRO-3"),
    (lambda w: {**w, FIRST.replace("layers.0", "layers.7"): torch.zeros(2, 16)}, "holds model.layers.7.self_attn.q_proj.lora_A.weight"),
    (lambda w: {**w, "base_model.model.lm_head.weight": torch.zeros(66, 16)}, "holds lm_head.weight, .* resized vocabulary"),
    (lambda w: {**w, "base_model.model.score.weight": torch.zeros(1, 16)}, "holds score.weight, .* reward model"),
    (lambda w: {}, "lacks"),
])
def test_weights_that_are_missing_too_many_or_of_another_shape_are_refused_by_name(change, words, plain, loaded, tmp_path):
    line = refused(loaded, damaged(plain, tmp_path, weights=change))
    assert all(part in line for part in words.split(" .* "))


def test_weights_that_only_repeat_the_base_are_no_reason_to_refuse(plain, loaded, tmp_path):
    embedding = loaded.base.get_input_embeddings().weight.detach()
    folder = damaged(plain, tmp_path, weights=lambda w: {
        **w, "base_model.model.model.embed_tokens.weight": embedding.to(torch.bfloat16)})
    loaded.load_role("policy", folder)
    close(role_logits(loaded, "policy"), peft_logits(*plain))
    loaded.drop_role("policy")
    changed = damaged(plain, tmp_path, weights=lambda w: {**w, "base_model.model.model.embed_tokens.weight": embedding + 1})
    assert "resized vocabulary" in refused(loaded, changed)


@pytest.mark.parametrize("change, words", [
    ({"r": 0}, "its r is 0"), ({"r": "8"}, "its r is '8'"), ({"r": True}, "its r is True"), ({"r": 3}, "has shape (2, 16), the base needs (3, 16)"),
    ({"r": 1 << 40}, "this adapter does not fit"), ({"r": -1}, "its r is -1"), ({"r": None}, "its r is None"),
    ({"rank_pattern": {"q_proj": 0}}, "rank_pattern at q_proj is 0"), ({"rank_pattern": [1]}, "its rank_pattern is [1], but must be a map"),
    ({"lora_alpha": "16"}, "its lora_alpha is '16'"), ({"lora_alpha": float("nan")}, "its lora_alpha is nan"), ({"lora_alpha": 10 ** 400}, "its lora_alpha"),
    ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern at q_proj is None"), ({"use_rslora": "yes"}, "its use_rslora is 'yes'"),
    ({"target_modules": ["q_proj", False]}, "target_modules is ['q_proj', False], but must be a list of names"),
    ({"target_modules": "((("}, "does not fit"), ({"target_modules": ["nowhere"]}, "does not fit"), ({"target_modules": 7}, "does not fit"),
    ({"target_modules": "q_proj"}, "does not fit"), ({"layers_to_transform": [9]}, "does not fit"), ({"lora_dropout": 7}, "does not fit"),
    ({"init_lora_weights": "PiSSA"}, "rewrites"), ({"init_lora_weights": "nonsense"}, "init_lora_weights 'nonsense'"),
    ({"lora_dropout": "0.05"}, "its lora_dropout is '0.05'"), ({"use_moonshine": {"a": 1}}, "sets use_moonshine, which PEFT"), ({"task_type": "SEQ_CLS"}, "the task SEQ_CLS"),
    ({"peft_type": "ADALORA"}, "is a ADALORA adapter"), ({"peft_type": "VERA"}, "is a VERA adapter"), ({"peft_type": None}, "no type"),
    ({"peft_type": 3}, "is a 3 adapter"), ({"peft_type": "A\nB\x1b[2J"}, "is a A B\\x1b[2J adapter"), ({"task_type": ["x\ny"]}, "is made for the task"),
    ({"r": 3, "base_model_name_or_path": "a\nb"}, "use it with the base a b"), ({"x\ny": 1}, "sets x y, which"), ({"modules_to_save": ["score"]}, "modules_to_save"), ({"eva_config": 3}, "cannot be used"),
    ({"target_parameters": "mlp"}, "cannot be used"), ({"bias": "lora_only", "use_dora": True}, "lacks"),
])
def test_a_configuration_that_makes_no_sense_is_refused_in_one_line(change, words, plain, loaded, tmp_path):
    assert words in refused(loaded, damaged(plain, tmp_path, config=change))


def test_a_null_where_peft_writes_none_is_the_default(plain, loaded, tmp_path):
    nulls = dict.fromkeys(["rank_pattern", "alpha_pattern", "loftq_config", "use_rslora", "fan_in_fan_out", "init_lora_weights", "lora_dropout"])
    loaded.load_role("policy", damaged(plain, tmp_path, config={**nulls, "task_type": "causal_lm", "modules_to_save": []}))
    close(role_logits(loaded, "policy"), peft_logits(*plain))
    loaded.drop_role("policy")


def test_options_of_a_later_peft_that_are_off_do_not_matter(plain, loaded, tmp_path):
    loaded.load_role("policy", damaged(plain, tmp_path, config={"use_moonshine": False, "moonshine_config": None}))
    close(role_logits(loaded, "policy"), peft_logits(*plain))
    loaded.drop_role("policy")


@pytest.mark.parametrize("config", [IA3Config(target_modules=["k_proj"], feedforward_modules=[]), PrefixTuningConfig(num_virtual_tokens=2)],
                         ids=["IA3", "PREFIX_TUNING"])
def test_adapters_of_other_kinds_are_refused_by_name(config, plain, loaded, tmp_path):
    config.task_type = "CAUSAL_LM"
    get_peft_model(AutoModelForCausalLM.from_pretrained(plain[0]), config).save_pretrained(tmp_path)
    assert f"is a {config.peft_type.value} adapter" in refused(loaded, tmp_path)


def test_a_reward_model_of_trl_is_refused_in_words(plain, loaded, tmp_path):
    model = AutoModelForSequenceClassification.from_pretrained(plain[0], num_labels=1)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj"])).save_pretrained(tmp_path)
    assert "train a reward model here on its preference data" in refused(loaded, tmp_path)


def test_a_run_from_before_whose_layers_were_written_letter_by_letter_is_read(bases, tmp_path):
    """`sorted` made letters of a regular expression, so that no checkpoint of a finished run could be read."""
    chosen = next(chosen for chosen in OPTIONS if chosen.name == "target_modules: a regular expression")
    make_adapter(chosen, bases["llama"], tmp_path)
    expected = peft_logits(bases["llama"], tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    values["target_modules"] = sorted(values["target_modules"])
    (tmp_path / "adapter_config.json").write_text(json.dumps(values))
    backbone = Backbone.load(str(bases["llama"]))
    backbone.load_role("policy", tmp_path)
    close(role_logits(backbone, "policy"), expected)


def test_a_role_named_as_a_module_of_the_base_keeps_its_weights_apart(bases, tmp_path):
    """BERT's layers are called `value`, and so is a role."""
    backbone = Backbone.load(str(bases["llama"]))
    for block in backbone.base.model.layers:
        block.self_attn.add_module("value", block.self_attn.v_proj)
        del block.self_attn.v_proj
        block.self_attn.__class__.v_proj = property(lambda self: self.value)
    try:
        backbone.new_role("policy", rank=2)
        backbone.copy_role("value", "policy")
        backbone.train("policy")
        assert {p.requires_grad for p in backbone.parameters("value")} == {False}
        assert backbone.named_parameters("value").keys() == backbone.named_parameters("policy").keys()
        backbone.save_role("policy", tmp_path / "policy")
        saved = load_file(tmp_path / "policy" / "adapter_model.safetensors")
        assert {name.removeprefix("base_model.model.") for name in saved} == backbone.named_parameters("policy").keys()
        assert any(".value.lora_A.weight" in name for name in saved)
    finally:
        del backbone.base.model.layers[0].self_attn.__class__.v_proj


# -- whole runs ----------------------------------------------------------------------------------------------------------

REWARD = "def score(prompt, response):\n    return float(len(response) % 7)\n"


@pytest.mark.parametrize("chosen", [
    option("rsLoRA by a regular expression", use_rslora=True, r=4, rank_pattern={"q_proj": 2}, target_modules=r".*\.(q|up)_proj"),
    option("DoRA on one layer", use_dora=True, layers_to_transform=[1]),
    option("Conv1D", "gpt2", use_rslora=True, target_modules=["c_attn"]),
    option("the embedding and the output layer", target_modules=["embed_tokens", "lm_head", "q_proj"]),
], ids=lambda chosen: chosen.name)
def test_a_run_starts_at_the_adapter_that_was_given_and_resumes_as_itself(chosen, bases, tmp_path):
    base, folder = bases[chosen.base], tmp_path / "made"
    make_adapter(chosen, base, folder)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"t{i} t{i + 1} t9"}) + "\n" for i in range(3, 7)))
    (tmp_path / "reward.py").write_text(REWARD)

    def run(output, *flags):
        assert main(["ppo", "--model", str(base), "--adapter", str(folder), "--data", str(tmp_path / "prompts.jsonl"), "--reward",
                     f"{tmp_path / 'reward.py'}:score", "--output", str(tmp_path / output), "--batch-size", "4", "--max-new-tokens", "6",
                     "--reference-samples", "8", "--no-normalise-reward", "--ppo-epochs", "1", "--minibatches", "1",
                     "--warmup", "0", "--schedule", "constant", "--kl-horizon", "100", "--kl-lookahead", "0", *flags]) == 0
        return load_file(tmp_path / output / "checkpoints" / "last" / "policy" / "adapter_model.safetensors")
    whole = run("whole", "--steps", "2")
    first = json.loads((tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4) and first["val/ratio"] == pytest.approx(1, abs=1e-4)
    run("parts", "--steps", "1")
    parts = run("parts", "--steps", "2", "--resume")
    assert whole.keys() == parts.keys() and all(torch.equal(value, parts[name]) for name, value in whole.items())
    last = tmp_path / "whole" / "checkpoints" / "last"
    close(peft_logits(base, last / "reference"), peft_logits(base, folder))
    assert (peft_logits(base, last / "policy") - peft_logits(base, folder)).abs().max() > 1e-4


def test_an_adapter_that_is_refused_leaves_no_run_behind(plain, tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.mkdir()
    damaged(plain, bad, config={"modules_to_save": ["lm_head"]})
    (tmp_path / "demos.jsonl").write_text('{"prompt": "t3", "completion": "t4"}\n')
    arguments = ["--model", str(plain[0]), "--adapter", str(bad), "--data", str(tmp_path / "demos.jsonl")]
    assert main(["sft", *arguments, "--output", str(tmp_path / "run")]) == 2
    assert not (tmp_path / "run").exists()
    line, = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {bad}: sets modules_to_save")


@pytest.mark.parametrize("base", ["gpt2", "llama"])
def test_an_adapter_of_our_own_is_read_by_peft_and_by_us(base, bases, tmp_path):
    """GPT-2 keeps its weights the other way round (`fan_in_fan_out`)."""
    (tmp_path / "demos.jsonl").write_text("".join(json.dumps({"prompt": f"t{i}", "completion": f"t{i + 1} t9"}) + "\n" for i in range(3, 9)))
    assert main(["sft", "--model", str(bases[base]), "--data", str(tmp_path / "demos.jsonl"), "--output", str(tmp_path / "run"),
                 "--batch-size", "4", "--epochs", "4", "--learning-rate", "0.02", "--lora-rank", "3", "--lora-alpha", "9"]) == 0
    folder = tmp_path / "run" / "checkpoints" / "last" / "policy"
    values = json.loads((folder / "adapter_config.json").read_text())
    assert values["fan_in_fan_out"] is (base == "gpt2") and (values["r"], values["lora_alpha"]) == (3, 9)
    backbone = Backbone.load(str(bases[base]))
    backbone.load_role("policy", folder)
    backbone.copy_role("reference", "policy")
    expected = peft_logits(bases[base], folder)
    assert (expected - role_logits(backbone, None)).abs().max() > 0.05
    close(role_logits(backbone, "reference"), expected)
    close(merged_logits(backbone, bases[base], folder, tmp_path / "merged"), expected)
