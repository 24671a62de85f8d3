"""Builds the page and serves it."""

import importlib.util
import os
import signal
import threading
import time
from pathlib import Path

import gradio as gr

from playground import text
from playground.components import html as views
from playground.components import text as shared_text
from playground.components.notices import mark_seen
from playground.pages.chat.page import ChatPage
from playground.pages.data.page import DataPage
from playground.pages.models.page import ModelsPage
from playground.pages.runs.export_panel import ExportPage
from playground.pages.runs.page import RunsPage
from playground.pages.teach.page import TeachPage
from playground.pages.train.page import TrainPage
from playground.scripts import function_from, run_all
from playground.server import text as server_text
from playground.server import worker_guard as guarded
from playground.server.access import Access
from playground.server.api import Api
from playground.server.feedback_backup import Keeper, keep
from playground.server.login import Login
from playground.server.polling import Pace
from playground.server.visitor import greeting
from playground.theme import CSS, Playground
from playground.voting import VotingService
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.worker.client import Worker


def build(home: str | Path | None = None, *, worker=None, access: Access | None = None) -> gr.Blocks:
    """The page over the workspace `home` (PLAYGROUND_HOME, else ./workspace). The run is the worker's; the page only looks.

    `demo.launch(**options(demo))` serves it. Without `access` whoever reaches the page is its owner: whoever serves it to others passes
    one.
    """
    workspace = Workspace(home or default_home(), access)
    access = workspace.access
    worker, ballot = guarded.GuardedWorker(worker or Worker(workspace.home), workspace), VotingService(workspace)
    with gr.Blocks(title=shared_text.TITLE, analytics_enabled=False) as demo:
        header = gr.HTML(views.header(shared_text.NO_RUN_LIVE), elem_id="header")
        if access.space_owner and importlib.util.find_spec("authlib") and os.environ.get("OAUTH_CLIENT_ID"):
            gr.LoginButton(size="sm", elem_id="login")
        notice = gr.HTML("", elem_id="notice")
        voter = gr.BrowserState("", storage_key="rlhf-playground-voter", secret="rlhf-playground")  # in a tab it would be read too late
        front = gr.Textbox("teach", elem_id="front", elem_classes="unseen")  # in the browser: a restarted server has to be told
        with gr.Tabs() as tabs:
            with gr.Tab(text.TEACH, id="teach") as tab_teach:
                teach = TeachPage(workspace, worker, ballot, voter, notice)
            with gr.Tab(text.TRAIN, id="train") as tab_train:
                train = TrainPage(workspace, worker, notice)
            with gr.Tab(text.CHAT, id="chat") as tab_chat:
                chat = ChatPage(workspace, worker, voter, notice)
            with gr.Tab(text.RUNS, id="runs") as tab_runs:
                runs, take = RunsPage(workspace), ExportPage(workspace, notice)
            with gr.Tab(shared_text.DATA, id="data") as tab_data:
                data = DataPage(workspace, voter, notice)
            with gr.Tab(shared_text.MODELS, id="models") as tab_models:
                models = ModelsPage(workspace, worker, notice)
        Api(workspace, worker, ballot)
        pages = {teach: tab_teach, train: tab_train, chat: tab_chat, runs: tab_runs, take: tab_runs, data: tab_data, models: tab_models}
        for tab in dict.fromkeys(pages.values()):
            tab.select(None, None, front, js=function_from("select_tab", tab=tab.id), queue=False, api_visibility="private")
        names = [tab.id for tab in pages.values()]
        demo.load(None, None, tabs, js=function_from("reopen_tab", tabs=names), queue=False, api_visibility="private")
        seen, again = gr.State({}), gr.Button("", elem_id="look", elem_classes="unseen")
        demo.seen, demo.pace, demo.access = threading.Event(), Pace(workspace), access

        def look(values: dict) -> dict:
            """One look at the workspace for the header and the tab in front; what has not changed since the last is not sent again."""
            demo.seen.set()
            known, entries = dict(values[seen]), workspace.entries()
            line, who = views.live_line(next((e for e in entries if e.alive), None)), greeting(access)
            changes = {header: views.header(line, *who)} if mark_seen(known, "header", [line, who]) else {}
            for page, name in ((page, type(page).__name__) for page, tab in pages.items() if tab.id == values[front]):
                told = dict(known.get(name, {}))
                try:
                    changes |= page.refresh(values, entries, told)
                    known[name] = told
                except (UserError, OSError):  # a run has gone since they were listed; the next look has another list
                    if {entry.name for entry in entries} <= {entry.name for entry in workspace.entries()}:
                        raise
            return changes | {seen: known} if known != values[seen] else gr.skip()

        gr.on([demo.load, again.click, front.change, train.picker.change, teach.picker.change, chat.model.change, *runs.triggers],
              demo.pace.timed(look), {seen, front, *(part for page in pages for part in page.watched)},
              [seen, header, *(part for page in pages for part in page.outputs)], queue=False, show_progress="hidden",
              trigger_mode="always_last", api_visibility="private")
        demo.load(chat.restore, {voter}, [chat.chat, *chat.shown], queue=False, show_progress="hidden", api_visibility="private")
    return demo


def options(demo: gr.Blocks) -> dict:
    """For `demo.launch`: how the page of `build` looks, and what its server does besides."""
    login = Login(demo.access)
    return {"theme": Playground(), "css_paths": CSS, "js": run_all("poll", "double_click"), "run_history": False, "ssr_mode": False,
            "footer_links": ["api", "settings", "gradio"],
            "app_kwargs": {"routes": [*login.routes, demo.pace.route], "middleware": login.middleware}}


def default_home() -> Path:
    return Path(os.environ.get("PLAYGROUND_HOME") or "workspace")


def launch(home: str | Path | None = None, **given) -> None:
    """Serve the page until Ctrl-C or SIGTERM. A live run goes on without it; an idle worker ends with it."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    home = Path(home or default_home())
    worker = Worker(home)
    host = os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")
    # Decided here, for Gradio would also share by itself in some notebooks.
    share = given.pop("share", os.environ.get("GRADIO_SHARE", "").lower() == "true")
    access = Access.from_environment(host, shared=bool(share))
    demo = build(home, worker=worker, access=access)
    signal.signal(signal.SIGTERM, stop)  # not by way of SIGINT, which a shell ignores for what it starts in the background
    _, url, _ = demo.launch(server_name=host, share=share, quiet=True, prevent_thread_lock=True, **options(demo), **given)
    print(text.READY.format(url=url.rstrip("/")), flush=True)
    if not access.has_owner:
        print(server_text.NO_OWNER, flush=True)
    threading.Thread(target=warm_up, args=(worker, demo.seen), daemon=True).start()
    ended, helpers = threading.Event(), []
    if access.open:
        helpers.append(threading.Thread(target=guarded.watch, args=(worker, Workspace(home), ended), daemon=True))
    if kept := os.environ.get("PLAYGROUND_SYNC"):
        helpers.append(threading.Thread(target=keep, args=(Keeper(Workspace(home), kept), ended), daemon=True))
    for thread in helpers:
        thread.start()
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass
    ended.set()
    for thread in helpers:
        thread.join(30)
    leave(worker, Workspace(home))
    demo.close(verbose=False)


def stop(number, frame) -> None:
    raise KeyboardInterrupt


def warm_up(worker, seen: threading.Event) -> None:
    """Start the worker once the first page is up (it would only slow that down), so that the first answer does not wait for it."""
    seen.wait(timeout=10)
    try:
        worker.ensure()
    except UserError as error:
        print(error, flush=True)


def leave(worker, workspace: Workspace) -> None:
    """Shut the worker down, unless it has a run to go on with."""
    if live := workspace.live():
        print(text.LEFT_RUNNING.format(name=live), flush=True)
    elif worker.alive():
        worker.shutdown()
