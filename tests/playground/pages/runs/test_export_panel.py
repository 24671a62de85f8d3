"""Take it along: exports ordered from the page, in a process of their own; for owners alone; and the page in a browser."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import gradio as gr
import pytest
from playwright.sync_api import expect

from playground.app import build, options
from playground.pages.runs import export_panel as export_page
from playground.pages.runs.export_panel import ExportPage, offered
from playground.server import export_jobs as exporting
from playground.server import text as server_text
from playground.server.access import Access
from playground.server.export_jobs import LOG, MADE, Exports, how_to_load
from playground.server.polling import Polling
from playground.workspace import Workspace
from rlhf_engine.config import SFTConfig, TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json, write_json
from rlhf_engine.runs.resolve import BUNDLED_ADAPTER
from tests.playground.browser import browsing, expect_no_sideways_scroll, go, needs_browser, serving
from tests.playground.conftest import EVIL, write_run

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def trained(workspace) -> Workspace:
    """The workspace with a run `taught` on the bundled model, whose checkpoint is the shipped SFT adapter."""
    run = write_run(workspace.home, "taught", TeachConfig(labeler="short"), checkpoint=False)
    with run.checkpoint(3) as folder:
        shutil.copytree(BUNDLED_ADAPTER, folder / "policy")
    return workspace


def ended(exports: Exports) -> dict:
    for _ in range(6000):  # ten minutes, which only end a test that would wait for ever
        if (told := exports.look()) and told["state"] != "running":
            return told
        time.sleep(0.1)
    raise AssertionError(f"still running: {(exports.workspace.home / LOG).read_text()}")


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """What would be started, with a process in its place that says so and ends; `["fail"]` in front makes it fail."""
    asked, popen = [], subprocess.Popen

    def start(command, **options):
        asked.append(command)
        code = "print('halfway'); import sys; sys.exit('error: no room <b>')" if asked[0] == ["fail"] else "print('halfway')"
        if asked[0] == ["wait"]:
            code = "import time; print('halfway', flush=True); time.sleep(60)"
        return popen([sys.executable, "-c", code], **options)
    monkeypatch.setattr(exporting.subprocess, "Popen", start)
    return asked


# -- the process ---------------------------------------------------------------------------------------------------------

def test_an_export_is_the_command_line_in_a_process_of_its_own(trained, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    exports = Exports(trained)
    assert exports.look() == {}
    assert exports.start("taught@step-000003", merge=False) == "taught-step-000003"
    assert exports.look()["state"] == "running"
    told = ended(exports)
    folder = trained.home / "exports" / "taught-step-000003"
    assert told["state"] == "done" and told["there"] and str(folder) in told["said"]
    assert (folder / "adapter_model.safetensors").read_bytes() == (BUNDLED_ADAPTER / "adapter_model.safetensors").read_bytes()
    assert any(f'"{folder}"' in code for code in how_to_load(folder))
    assert exports.start("taught@step-000003", merge=False) == "taught-step-000003-2", "nothing is overwritten"
    ended(exports)
    assert Exports(trained).look()["name"] == "taught-step-000003-2", "a page that is started anew knows it"


def test_what_is_asked_is_what_the_command_line_is_told(trained, commands):
    exports = Exports(trained)
    checkpoint = trained.runs / "taught"
    for given, flags in (
            (("taught", {"merge": True}), ["--model=bundled", f"--adapter={checkpoint}", "--merge"]),
            (("bundled", {"merge": False, "push": "me/mine"}), ["--model=bundled", "--adapter=bundled", "--push=me/mine"]),
            (("cheerful", {"merge": False, "push": "me/mine", "public": True}), ["--push=me/mine", "--public"]),
            (("bundled", {"merge": False, "public": True}), ["--adapter=bundled"])):
        exports.start(given[0], **given[1])
        asked = commands[-1]
        assert asked[1:5] == ["-P", "-m", "rlhf_engine", "export"] and set(flags) <= set(asked)
        assert ("--public" in asked) == ("--public" in flags) and ("--merge" in asked) == ("--merge" in flags)
        assert sum(flag.startswith(f"--output={trained.home / 'exports'}/") for flag in asked) == 1
        ended(exports)


def test_one_at_a_time_and_what_is_wrong_is_said(trained, commands):
    exports = Exports(trained)
    for pick, push, expected in (("../..", "", "no run"), ("taught@step-9", "", "no checkpoint"), ("none", "", "no run"), ("bundled", "--public", "no name on the Hub"),
                                 ("bundled", "a b/c", "no name on the Hub")):
        with pytest.raises(UserError, match=expected):
            exports.start(pick, merge=False, push=push)
    assert commands == []
    commands.append(["wait"])
    exports.start("bundled", merge=False)
    with pytest.raises(UserError, match="being made already"):
        Exports(trained).start("bundled", merge=False)
    told = exports.look()
    os.kill(told["pid"], signal.SIGKILL)
    assert ended(exports)["said"] == server_text.TAKE_ENDED
    commands[0] = ["fail"]
    exports.start("bundled", merge=False)
    told = ended(exports)
    assert told["state"] == "failed" and told["said"] == "no room <b>" and not told["there"]


def test_an_export_that_ended_while_the_page_was_away_is_told_by_its_folder(trained):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    told = {"name": "x", "merge": True, "state": "running", "pid": dead.pid, "born": 1.0}
    dead.wait()
    (trained.home / "exports").mkdir()
    write_json(trained.home / MADE, told)
    assert Exports(trained).look()["state"] == "failed"
    (trained.home / "exports" / "x").mkdir()
    assert Exports(trained).look()["state"] == "done"
    for broken in ("{", "[]", json.dumps(told | {"name": "../.."})):
        (trained.home / MADE).write_text(broken)
        assert Exports(trained).look() == {}


def test_the_page_hears_of_an_export_at_once(trained, commands):
    polling, exports = Polling(trained), Exports(trained)
    before = polling._state()
    exports.start("bundled", merge=False)
    begun = polling._state()
    ended(exports)
    assert before != begun != polling._state()


# -- who may -------------------------------------------------------------------------------------------------------------

def test_a_visitor_exports_nothing_and_sees_nothing_of_it(trained, commands, monkeypatch):
    seen = Exports(Workspace(trained.home, Access(alone=False)))
    with pytest.raises(UserError, match="Only the owner"):
        seen.start("bundled", merge=False)
    assert commands == [] and not (trained.home / "exports").exists()
    Exports(trained).start("bundled", merge=False)
    ended(Exports(trained))
    assert seen.look() == {}
    monkeypatch.setattr("gradio.Warning", lambda *_, **__: None)
    with gr.Blocks():
        page = ExportPage(seen.workspace, gr.HTML())
    assert page.refresh({page.pick: "bundled"}, trained.entries(), {}) == {}
    told = page._make({page.pick: "bundled", page.kind: "adapter", page.repo: "", page.private: True})
    assert "Only the owner" in told[page.notice] and len(commands) == 1


# -- the page ------------------------------------------------------------------------------------------------------------

@pytest.fixture
def page(trained, monkeypatch):
    monkeypatch.setattr("gradio.Warning", lambda *_, **__: None)
    monkeypatch.setattr("gradio.Info", lambda *_, **__: None)
    with gr.Blocks():
        return ExportPage(trained, gr.HTML())


def test_policies_are_offered_and_reward_models_are_not(trained):
    write_run(trained.home, "new", SFTConfig(), checkpoint=False)
    values = [value for _, value in offered(trained, trained.entries())]
    assert {"taught", "taught@step-000003", "bundled", "cheerful"} <= set(values) and not {"taste", "new", "none"} & set(values)


def test_what_is_private_is_pushed_so(page, commands):
    values = {page.pick: "taught", page.kind: "merged", page.repo: " me/mine ", page.private: True}
    page._make(values)
    assert "--push=me/mine" in commands[-1] and "--public" not in commands[-1] and "--merge" in commands[-1]
    ended(page.exports)
    page._make(values | {page.private: False, page.kind: "adapter"})
    assert "--public" in commands[-1] and "--merge" not in commands[-1]
    ended(page.exports)
    page._make(values | {page.private: None})
    assert "--public" not in commands[-1], "what a browser leaves out is private"


def test_each_browser_is_told_once_how_it_stands(page, trained, commands):
    seen, values = {}, {page.pick: "gone"}
    assert page.refresh(values, trained.entries(), seen)[page.pick]["value"] == "taught"
    values = {page.pick: "taught"}
    assert page.refresh(values, trained.entries(), seen) == {}
    commands.append(["fail"])
    page.exports.start("taught", merge=False)
    ended(page.exports)
    html = page.refresh(values, trained.entries(), seen)[page.status]
    assert "no room &lt;b&gt;" in html and 'role="alert"' in html
    assert page.refresh(values, trained.entries(), seen) == {}


def test_an_adapter_comes_as_a_file_and_a_merged_model_as_a_place(page, trained, monkeypatch, tmp_path):
    monkeypatch.setattr(page.download, "GRADIO_CACHE", str(tmp_path / "cache"))
    folder = trained.home / "exports" / "x"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(f"# A\n```python\nload('THIS-FOLDER') {EVIL}\n```\n")
    told = {"name": "x", "merge": False, "state": "done", "pid": 1, "born": 1.0, "said": "done"}
    write_json(trained.home / MADE, told)
    shown = page._show(page.exports.look())
    file = Path(shown[page.download]["value"])
    assert zipfile.ZipFile(file).namelist()[-1] == "x/README.md" and len(file.parent.name) > 32 and shown[page.download]["visible"]
    assert f"load(&#x27;{folder}&#x27;)" in shown[page.status] and "<img" not in shown[page.status]
    assert page._show(page.exports.look())[page.download]["value"] == str(file), "made once"
    write_json(trained.home / MADE, told | {"merge": True})
    shown = page._show(page.exports.look())
    assert not shown[page.download]["visible"] and str(folder) in shown[page.status]
    monkeypatch.setattr(export_page, "fresh", lambda *_: (_ for _ in ()).throw(UserError("no room")))
    write_json(trained.home / MADE, told)
    page._zips.clear()
    assert not page._show(page.exports.look())[page.download]["visible"]


def test_a_new_export_takes_the_old_download_away_at_once(page, trained, commands):
    values = {page.pick: "taught", page.kind: "adapter", page.repo: "", page.private: True}
    assert page._make(values)[page.download]["visible"] is False
    ended(page.exports)


@needs_browser
def test_an_owner_takes_a_checkpoint_along(trained, worker, tmp_path):
    with serving(trained.home, worker) as url, browsing(url) as open_page:
        page = go(open_page(), "Runs")
        page.locator("#take-along > button").click()
        expect(page.locator("#take-pick input")).not_to_have_value("")
        page.click("#take-make")
        expect(page.locator("#take-status [role=progressbar]")).to_be_visible()
        expect(page.locator("#take-status")).to_contain_text("PeftModel.from_pretrained")
        with page.expect_download() as caught:
            page.click("#take-download")
        caught.value.save_as(tmp_path / "got.zip")
        assert "taught/adapter_model.safetensors" in zipfile.ZipFile(tmp_path / "got.zip").namelist()
        page.get_by_label("A merged model").check()
        page.click("#take-make")
        expect(page.locator("#take-status")).to_contain_text(f'AutoModelForCausalLM.from_pretrained("{trained.home}/exports/taught-merged")')
        expect(page.locator("#take-download")).to_be_hidden()
        assert read_json(trained.home / MADE)["state"] == "done"
        page.set_viewport_size({"width": 390, "height": 900})
        expect_no_sideways_scroll(page)


@needs_browser
def test_a_visitor_is_not_offered_it(trained, worker):
    demo = build(trained.home, worker=worker, access=Access(alone=False, password="p"))
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **options(demo))
    try:
        with browsing(url) as open_page:
            page = go(open_page(), "Runs")
            expect(page.locator("#runs-legend")).to_be_visible()
            expect(page.locator("#take-along")).to_be_hidden()
    finally:
        demo.close(verbose=False)
