"""From which checkpoint an adapter started, and which adapters are equal."""

import shutil
from pathlib import Path

import pytest
import torch

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.tax.checkpoints import BASE, Source, load_checkpoints, plan
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.resolve import BUNDLED_ADAPTER
from rlhf_engine.yaml_files import yaml_text

GALLERY = BUNDLED_ADAPTER.parent


@pytest.fixture(scope="module")
def adapters(tiny_llama, tmp_path_factory) -> Path:
    """PEFT folders `one` and `two` that differ, and `fresh`, which changes nothing."""
    folder = tmp_path_factory.mktemp("adapters")
    backbone = Backbone.load(str(tiny_llama))
    for seed, role in enumerate(("fresh", "one", "two")):
        backbone.new_role(role, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in backbone.parameters(role) if seed else []:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        backbone.save_role(role, folder / role)
    return folder


def make_run(place: Path, *, policy: Path, reference: Path | None = None, **settings) -> Path:
    """A run folder as far as these commands read it."""
    last = place / "checkpoints" / "step-000001"
    shutil.copytree(policy, last / "policy")
    if reference:
        shutil.copytree(reference, last / "reference")
    (place / "checkpoints" / "last").symlink_to(last.name, target_is_directory=True)
    (place / "config.yaml").write_text(yaml_text(settings))
    (place / "status.json").write_text("{}")
    return place


def starts(*names, against=None, model="bundled"):
    pairs, notes = plan([str(name) for name in names], against and str(against), str(model))
    return [start for _, start in pairs], notes


def test_the_start_of_a_run_is_its_reference(adapters, tmp_path):
    run = make_run(tmp_path / "run", policy=adapters / "two", reference=adapters / "one", stage="ppo", model="x", adapter="gone")
    for name in (run, run / "checkpoints" / "last", run / "checkpoints" / "step-000001" / "policy"):
        [start], notes = starts(name)
        assert start.name == f"start of {name}" and start.folder.samefile(run / "checkpoints" / "last" / "reference") and not notes


def test_without_a_reference_it_is_the_adapter_of_its_settings(adapters, tmp_path):
    run = make_run(tmp_path / "run", policy=adapters / "two", stage="sft", model="x", adapter=str(adapters / "one"))
    assert starts(run) == ([Source(str(adapters / "one"), adapters / "one")], [])
    assert starts(run / "checkpoints" / "last" / "policy")[0] == [Source(str(adapters / "one"), adapters / "one")]
    none = make_run(tmp_path / "none", policy=adapters / "two", stage="sft", model="x", adapter="none")
    bundled = make_run(tmp_path / "bundled", policy=adapters / "two", stage="ppo", model="bundled", adapter="auto")
    first = make_run(tmp_path / "first", policy=adapters / "two", stage="sft", model="bundled", adapter="auto")
    assert starts(none, bundled, first) == ([Source(BASE), Source("bundled", BUNDLED_ADAPTER), Source(BASE)], [])
    gone = make_run(tmp_path / "gone", policy=adapters / "two", stage="sft", model="x", adapter="elsewhere/run")
    with pytest.raises(UserError, match="the adapter that it started from cannot be found .elsewhere/run: no such adapter.* name it with --against"):
        starts(gone)
    assert starts(gone, against="none") == ([Source(BASE)], [])


def test_the_gallery_started_from_the_sft_adapter(adapters):
    assert starts(GALLERY / "brief", "bundled", "none") == ([Source("bundled", BUNDLED_ADAPTER), Source(BASE), Source(BASE)], [])
    found, notes = starts(adapters / "one")
    assert found == [Source(BASE)] and len(notes) == 1 and "belongs to no run" in notes[0] and "--against" in notes[0]


def test_the_base_comes_first_then_starts_then_adapters_each_once(adapters, tiny_llama, tmp_path):
    run = make_run(tmp_path / "run", policy=adapters / "two", reference=adapters / "one", stage="ppo")
    shutil.copytree(adapters / "two", tmp_path / "copy")
    backbone = Backbone.load(str(tiny_llama))
    pairs, _ = plan([str(run), str(tmp_path / "copy"), str(adapters / "one"), "none", str(run)], None, str(tiny_llama))
    base, start, policy = load_checkpoints(backbone, pairs)
    assert (base.name, base.role, base.start) == (BASE, None, None)
    assert start.name == f"start of {run}" and start.also == [str(adapters / "one")] and start.start is base
    assert policy.name == str(run) and policy.also == [str(tmp_path / "copy")] and policy.start is start
    assert len(backbone.roles) == 2


def test_the_same_numbers_at_another_scale_are_another_adapter(adapters, tiny_llama, tmp_path):
    shutil.copytree(adapters / "one", tmp_path / "scaled")
    config = tmp_path / "scaled" / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 16', '"lora_alpha": 17'))
    pairs, _ = plan([str(adapters / "one"), str(tmp_path / "scaled")], None, str(tiny_llama))
    assert len(load_checkpoints(Backbone.load(str(tiny_llama)), pairs)) == 3


def test_against_is_the_start_of_all(adapters, tiny_llama):
    pairs, notes = plan([str(adapters / "one"), str(adapters / "two"), "none"], str(adapters / "fresh"), str(tiny_llama))
    base, fresh, one, two = load_checkpoints(Backbone.load(str(tiny_llama)), pairs)
    assert one.start is two.start is fresh and fresh.start is base and not notes
    same = str(adapters / "one")
    assert plan([same], same, str(tiny_llama))[1] == [f"{same} is what --against names, so it is compared with the base"]


def test_a_folder_that_is_called_base_is_not_the_base(adapters, tiny_llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(adapters / "one", tmp_path / "base")
    pairs, _ = plan(["base", "none"], None, str(tiny_llama))
    names = [checkpoint.name for checkpoint in load_checkpoints(Backbone.load(str(tiny_llama)), pairs)]
    assert names == ["base", "base (base)"]
