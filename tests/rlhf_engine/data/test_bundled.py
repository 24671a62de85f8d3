"""What `bundled` means for each model: stories, and for smollm2 everyday requests."""

import json

import pytest

from rlhf_engine.build import hold_out, read_ptx_texts
from rlhf_engine.cli import main
from rlhf_engine.config import PPOConfig, TeachConfig
from rlhf_engine.data.readers import read_demonstrations, read_preferences, read_prompts, read_rows
from rlhf_engine.errors import UserError
from rlhf_engine.files import ASSETS
from rlhf_engine.stages import STAGES, make_config
from rlhf_engine.yaml_files import read_yaml


def requests(name: str) -> list[str]:
    return [json.loads(line)["prompt"] for line in (ASSETS / name).read_text(encoding="utf-8").splitlines()]


def test_smollm2_has_prompts_of_its_own():
    assert read_prompts("bundled", model="smollm2") == read_rows("bundled", "prompts", model="smollm2") == requests("everyday-requests.jsonl")
    held_out = requests("everyday-requests-heldout.jsonl")
    assert read_prompts("bundled-heldout", model="smollm2") == held_out and len(held_out) >= 64
    assert not set(held_out) & set(requests("everyday-requests.jsonl"))
    assert hold_out(["a"], TeachConfig(model="smollm2")) == (["a"], held_out)
    assert read_prompts("bundled", model="some/other") == read_prompts("bundled") != read_prompts("bundled", model="smollm2")


@pytest.mark.parametrize("read, kind", [(read_demonstrations, "demonstrations"), (read_preferences, "preferences")])
def test_stories_are_refused_with_what_to_give(read, kind):
    with pytest.raises(UserError) as caught:
        read("bundled", model="smollm2") if kind == "demonstrations" else read_rows("bundled", kind, model="smollm2")
    line = str(caught.value)
    assert line.startswith(f"bundled: holds no {kind} for smollm2") and f"name {kind} with --data" in line and "\n" not in line


def test_the_command_and_the_mix_refuse_them_too(capsys, tmp_path):
    for stage in ("sft", "reward"):
        assert main([stage, "--model", "smollm2", "--output", str(tmp_path / stage)]) == 2
        assert "holds no" in capsys.readouterr().err and not (tmp_path / stage).exists()
    with pytest.raises(UserError, match="^--ptx-data bundled: holds no demonstrations for smollm2.* with --ptx-data"):
        read_ptx_texts(PPOConfig(model="smollm2", reward="r", ptx_coef=0.1))


@pytest.mark.parametrize("stage", STAGES)
def test_there_is_a_recipe_for_each_stage(stage):
    settings = read_yaml(str(ASSETS / "presets" / "smollm2" / f"{stage}.yaml"))
    config = make_config(stage, settings)
    assert config.model == "smollm2" and config.dtype == "bf16" and config.max_tokens == 256 and config.micro_batch == 0
