"""Configs: every field documented and bounded, every message one line that names the flag and the mend."""

import dataclasses
import os
import subprocess
import sys

import pytest

from rlhf_engine import config as configs
from rlhf_engine.config import PPOConfig, RewardConfig, RunConfig, SFTConfig, to_dict
from rlhf_engine.errors import UserError
from rlhf_engine.stages import STAGES, make_config
from rlhf_engine.yaml_files import read_yaml, yaml_text

EVERY_FIELD = [(stage, name) for stage, config in [(s.name, s.config) for s in STAGES.values()] for name in configs.field_types(config)]


def refused(function, *args, **options) -> str:
    """The message of the UserError, checked to be one line that says something."""
    with pytest.raises(UserError) as caught:
        function(*args, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) > 20
    return message


@pytest.mark.parametrize(("stage", "name"), EVERY_FIELD)
def test_every_field_is_documented(stage, name):
    text = configs.docs(STAGES[stage].config)[name]
    assert len(text) > 10 and text.endswith(".") and "\n" not in text


def test_the_nearest_documentation_counts():
    assert configs.docs(PPOConfig)["batch_size"] != configs.docs(RunConfig)["batch_size"]
    assert configs.docs(RewardConfig)["batch_size"] == configs.docs(RunConfig)["batch_size"]
    assert configs.docs(PPOConfig)["seed"] == configs.docs(RunConfig)["seed"]


@pytest.mark.parametrize(("stage", "name"), EVERY_FIELD)
def test_defaults_are_valid_and_every_bound_is_kept(stage, name):
    cls = STAGES[stage].config
    meta = cls.__dataclass_fields__[name].metadata
    default = getattr(cls().validate(), name)
    assert type(default) is configs.field_types(cls)[name] or default in configs.choices(configs.field_types(cls)[name])
    if meta.get("low") is not None:
        message = refused(make_config, stage, {name: meta["low"] - 1})
        assert configs.flag(name) in message and f"at least {meta['low']}" in message
    if meta.get("high") is not None:
        message = refused(make_config, stage, {name: meta["high"] + 1})
        assert configs.flag(name) in message and f"at most {meta['high']}" in message
    if isinstance(default, (int, float)) and not isinstance(default, bool):
        assert meta.get("low") is not None or name == "missing_end_score"


@pytest.mark.parametrize(("name", "value", "expected"), [
    ("learning_rate", "1e-4", 1e-4), ("learning_rate", 1, 1.0), ("learning_rate", "0.5", 0.5), ("steps", "12", 12), ("steps", 12.0, 12),
    ("gradient_checkpointing", True, True), ("dtype", "nf4", "nf4"), ("data", None, ""), ("data", "a/b", "a/b")])
def test_values_from_yaml_and_forms_become_the_fields_type(name, value, expected):
    got = getattr(make_config("sft", {name: value}), name)
    assert got == expected and type(got) is type(expected)


@pytest.mark.parametrize(("name", "value"), [
    ("learning_rate", "fast"), ("learning_rate", None), ("learning_rate", float("nan")), ("learning_rate", float("inf")),
    ("learning_rate", True), ("learning_rate", [1]), ("steps", 1.5), ("steps", "1.5"), ("steps", float("inf")), ("steps", 10**400),
    ("steps", True), ("steps", {}), ("gradient_checkpointing", "yes"), ("gradient_checkpointing", 1), ("data", 5), ("data", ["a"]),
    ("data", False), ("dtype", "int8"), ("dtype", None), ("dtype", ["fp32"]), ("schedule", "cosine")])
def test_a_wrong_value_is_named_with_its_flag_and_what_is_allowed(name, value):
    message = refused(make_config, "sft", {name: value})
    assert message.startswith(configs.flag(name)) and "must be" in message


@pytest.mark.parametrize(("stage", "name", "value"), [
    ("sft", "batch_size", 10**9), ("ppo", "batch_size", 1), ("reward", "reference_samples", 2**53), ("sft", "max_tokens", 0), ("ppo", "lora_rank", 0),
    ("teach", "steps", -1), ("ppo", "temperature", 0), ("ppo", "max_new_tokens", 10**30), ("sft", "epochs", 1e308), ("teach", "votes", 2**63)])
def test_a_value_out_of_range_is_told_the_range(stage, name, value):
    message = refused(make_config, stage, {name: value})
    assert message.startswith(f"{configs.flag(name)} is ") and "must be at least" in message and "at most" in message


@pytest.mark.parametrize("value", [float("nan"), "nan", "inf", "1e999"])
def test_a_number_that_is_not_finite_is_told_so(value):
    assert "must be a finite number" in refused(make_config, "ppo", {"temperature": value})


def test_a_text_with_a_zero_byte_is_no_path():
    assert "zero byte" in refused(make_config, "sft", {"model": "a\x00b"})


def test_choices_are_listed():
    assert "auto, fp32, bf16, nf4" in refused(make_config, "sft", {"dtype": "fp16"})


def test_unknown_fields_and_stages_are_named():
    message = refused(make_config, "sft", {"learning_rat": 1e-3})
    assert "'learning_rat'" in message and "learning_rate" in message
    assert "'kl_coef'" in refused(make_config, "sft", {"kl_coef": 1.0})
    assert "3" in refused(make_config, "sft", {3: 1, "zzz": 2, None: 3})
    message = refused(make_config, "dpo", {})
    assert "'dpo'" in message and "sft, reward, ppo" in message


@pytest.mark.parametrize(("stage", "values", "flags"), [
    ("ppo", {"batch_size": 4, "minibatches": 5}, ("--minibatches", "--batch-size")),
    ("ppo", {"max_tokens": 96, "max_new_tokens": 96}, ("--max-new-tokens", "--max-tokens")),
    ("reward", {"max_tokens": 64, "max_new_tokens": 96}, ("--max-new-tokens", "--max-tokens"))])
def test_fields_that_do_not_go_together(stage, values, flags):
    message = refused(make_config, stage, values)
    assert all(flag in message for flag in flags)


@pytest.mark.parametrize("stage", STAGES)
def test_round_trip_through_yaml(stage, tmp_path):
    values = {"learning_rate": 1e-5, "data": "größe: 'x' # no comment", "seed": 7, "gradient_checkpointing": True, "dtype": "nf4"}
    config = make_config(stage, values)
    (tmp_path / "c.yaml").write_text(yaml_text(to_dict(config)), encoding="utf-8")
    assert read_yaml(tmp_path / "c.yaml") == to_dict(config) == dataclasses.asdict(config)
    again = make_config(stage, read_yaml(tmp_path / "c.yaml"))
    assert again == config and type(again) is STAGES[stage].config
    assert repr(again) == repr(config)  # types, too


@pytest.mark.parametrize("text", ["", "~", "no", "off", "1e-3", "012", "2024-01-01", "[a]", "a: b", "null", "'quoted'", "ü\nsecond line", "yes "])
def test_every_text_survives_yaml(text, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml_text(to_dict(SFTConfig(data=text, subset=text))), encoding="utf-8")
    config = make_config("sft", read_yaml(tmp_path / "c.yaml"))
    assert (config.data, config.subset) == (os.path.expanduser(text), text)  # data may be a path


@pytest.mark.parametrize(("text", "says"), [
    ("seed: 1\nsteps: [1, 2\n", "line 3"), ("seed: 1\nsteps: 2: 3\n", "line 2"), ("seed: 1\n\tsteps: 2\n", "line 2"), ("- 1\n- 2\n", "found a list"),
    ("hello", "found a text"), ("", "found nothing"), ("seed: !!python/object/apply:os.system ['true']\n", "line 1"), ("a: 2024-13-45\n", "month"),
    ("a: \x07\n", "YAML")])
def test_a_broken_yaml_file_is_named_with_its_line(text, says, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    message = refused(read_yaml, path)
    assert message.startswith(str(path)) and says in message


def test_a_yaml_file_that_cannot_be_read(tmp_path):
    assert "no such file" in refused(read_yaml, tmp_path / "none.yaml")
    (tmp_path / "c.yaml").write_bytes(b"a: \xff\xfe\n")
    assert "cannot be read" in refused(read_yaml, tmp_path / "c.yaml")
    assert "cannot be read" in refused(read_yaml, tmp_path)


@pytest.mark.parametrize("module", ["config", "runs.folder", "runs.resolve", "worker.client", "cli"])
def test_what_the_page_needs_at_once_imports_neither_torch_nor_gradio(module):
    code = f"import sys, rlhf_engine.{module}; print([m for m in ('torch', 'transformers', 'datasets', 'gradio') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("every, total, period", [(0, 40, 8), (0, 22, 5), (0, 3, 1), (0, 1000, 50), (0, 0, 1), (50, 40, 50), (10, 22, 10)])
def test_a_fifth_of_the_run_is_the_usual_period_of_checkpoints(every, total, period):
    assert configs.checkpoint_period(every, total) == period
