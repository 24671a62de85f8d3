"""Builds the page, and serves it."""

import importlib.util
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import gradio as gr

from playground import text
from playground.components import html as views
from playground.components import text as shared_text
from playground.components.notices import mark_seen
from playground.components.page import Page
from playground.page_lock import note_address, only_page
from playground.pages.chat.page import ChatPage
from playground.pages.data.page import DataPage
from playground.pages.models.page import ModelsPage
from playground.pages.report.page import ReportPage
from playground.pages.runs.export_panel import ExportPage
from playground.pages.runs.page import RunsPage
from playground.pages.teach.page import TeachPage
from playground.pages.train.page import TrainPage
from playground.run_commands import WorkerHandle
from playground.scripts import function_from, run_all
from playground.server import link_preview
from playground.server import text as server_text
from playground.server.access import Access
from playground.server.api import Api
from playground.server.feedback_backup import FeedbackBackup, back_up
from playground.server.login import Login
from playground.server.polling import Polling
from playground.server.proxy import bypass_proxy, without_socks
from playground.server.visitor import greeting
from playground.server.worker_guard import GuardedWorker, watch_visitors
from playground.theme import CSS, PlaygroundTheme
from playground.voting import VotingService
from playground.workspace import RunSummary, Workspace
from rlhf_engine.console import accept_any_text
from rlhf_engine.errors import UserError
from rlhf_engine.worker.client import Worker

P = TypeVar("P", bound=Page)

USUAL_PORT = 7860
"""Where Gradio serves a page, unless it is in use; then it takes the next that is free."""
PRIVATE = {"queue": False, "api_visibility": "private"}
"""Options of an event that the page uses for itself: answered at once, and no endpoint of the API."""


class Playground:
    """The page over a workspace: its Gradio blocks, and what its server needs besides them.

    The runs are the worker's; the page only reads their folders. `launch(**options(playground))` serves it.
    """

    def __init__(self, home: str | Path, *, worker: WorkerHandle | None = None, access: Access | None = None):
        self.workspace = Workspace(home, access)
        self.access = self.workspace.access
        self.worker = GuardedWorker(worker or Worker(self.workspace.home), self.workspace)
        self.voting = VotingService(self.workspace)
        self.polling = Polling(self.workspace)
        self.first_look = threading.Event()
        """Set when the first browser has asked what there is to see."""
        self.pages: dict[Page, gr.Tab] = {}
        with gr.Blocks(title=shared_text.TITLE, analytics_enabled=False) as self.blocks:
            self._build_top()
            self._build_tabs()
            Api(self.workspace, self.worker, self.voting)
            self._bind_tabs()
            self._bind_look()

    def launch(self, **settings):
        """Serve the page; the settings are those of `gr.Blocks.launch`, and so is what it returns.

        Gradio asks its own server whether it is up. No proxy of the environment (HTTP_PROXY) is in between. Then it
        asks for the whole page once and gives up if that takes more than three seconds, which it does on a busy
        machine. The second question is left out (`_frontend`): the first has shown that the server answers.
        """
        settings = {"_frontend": False, **settings}
        host = settings.get("server_name") or os.environ.get("GRADIO_SERVER_NAME", "")
        bypass_proxy(host)
        with without_socks():
            return self.blocks.launch(**settings)

    def close(self, **settings) -> None:
        """End the server."""
        self.blocks.close(**settings)

    # -- building ------------------------------------------------------------------------------------------------------

    def _build_top(self) -> None:
        """The header, the line for messages, and what a browser keeps."""
        self.header = gr.HTML(views.header(shared_text.NO_RUN_LIVE), elem_id="header")
        if self.access.space_owner and importlib.util.find_spec("authlib") and os.environ.get("OAUTH_CLIENT_ID"):
            gr.LoginButton(size="sm", elem_id="login")
        self.notice = gr.HTML("", elem_id="notice")
        # Outside of the tabs: inside one, its value would be read too late.
        self.voter = gr.BrowserState("", storage_key="rlhf-playground-voter", secret="rlhf-playground")
        # The name of the tab in front, kept in the browser, because a restarted server does not know it.
        self.front = gr.Textbox("teach", elem_id="front", elem_classes="unseen")

    def _build_tabs(self) -> None:
        """All pages, each in its tab."""
        space, worker, notice = self.workspace, self.worker, self.notice
        with gr.Tabs() as self.tabs:
            with gr.Tab(text.TEACH, id="teach") as tab:
                self.teach = self._add(TeachPage(space, worker, self.voting, self.voter, notice), tab)
            with gr.Tab(text.TRAIN, id="train") as tab:
                self.train = self._add(TrainPage(space, worker, notice), tab)
            with gr.Tab(text.CHAT, id="chat") as tab:
                self.chat = self._add(ChatPage(space, worker, self.voter, notice), tab)
            with gr.Tab(text.RUNS, id="runs") as tab:
                self.runs = self._add(RunsPage(space), tab)
                self._add(ExportPage(space, notice, self.runs.picker), tab)
            with gr.Tab(shared_text.REPORT, id="report") as tab:
                self._add(ReportPage(space, worker, notice), tab)
            with gr.Tab(shared_text.DATA, id="data") as tab:
                self._add(DataPage(space, self.voter, notice), tab)
            with gr.Tab(shared_text.MODELS, id="models") as tab:
                self._add(ModelsPage(space, worker, notice), tab)

    def _add(self, page: P, tab: gr.Tab) -> P:
        self.pages[page] = tab
        return page

    def _bind_tabs(self) -> None:
        """The address names the tab in front, so that it can be linked to, and a reload opens it again."""
        names = list(dict.fromkeys(tab.id for tab in self.pages.values()))
        for tab in dict.fromkeys(self.pages.values()):
            tab.select(None, None, self.front, js=function_from("select_tab", tab=tab.id, tabs=names), **PRIVATE)
        reopen = gr.Button("", elem_id="reopen", elem_classes="unseen")  # assets/js/follow_address.js presses it
        gr.on([self.blocks.load, reopen.click], None, None, self.tabs, js=function_from("reopen_tab", tabs=names),
              **PRIVATE)

    def _bind_look(self) -> None:
        """What makes the server look again, and what it needs and sends for that."""
        self.seen = gr.State({})
        poll = gr.Button("", elem_id="look", elem_classes="unseen")  # assets/js/poll.js presses it
        triggers = [self.blocks.load, poll.click, self.front.change, self.train.picker.change, self.teach.picker.change,
                    self.chat.model.change, *self.runs.triggers]
        watched, outputs = {self.seen, self.front}, [self.seen, self.header]
        for page in self.pages:
            watched |= page.watched
            outputs += page.outputs
        gr.on(triggers, self.polling.timed(self.look), watched, outputs, show_progress="hidden",
              trigger_mode="always_last", **PRIVATE)
        self.blocks.load(self.chat.restore, {self.voter}, [self.chat.chat, *self.chat.shown], show_progress="hidden",
                         **PRIVATE)

    # -- looking -------------------------------------------------------------------------------------------------------

    def look(self, values: dict) -> dict:
        """Look at the workspace for one browser: updates of the header and of the tab in front.

        What it has is not sent again.
        """
        self.first_look.set()
        known, entries = dict(values[self.seen]), self.workspace.entries()
        changes = self._refresh_header(entries, known)
        for page, tab in self.pages.items():
            if tab.id == values[self.front]:
                changes.update(self._refresh_page(page, values, entries, known))
        if known == values[self.seen]:
            return gr.skip()
        return {**changes, self.seen: known}

    def _refresh_header(self, entries: list[RunSummary], known: dict) -> dict:
        live = next((entry for entry in entries if entry.alive), None)
        line = ("" if live else views.conversion(self.workspace)[0]) or views.live_line(live)
        words = greeting(self.access)
        if mark_seen(known, "header", [line, words]):
            return {self.header: views.header(line, *words)}
        return {}

    def _refresh_page(self, page: Page, values: dict, entries: list[RunSummary], known: dict) -> dict:
        """The updates of one page.

        It has none if a run was removed since the runs were listed; the next look has another list.
        """
        name = type(page).__name__
        seen = dict(known.get(name, {}))
        try:
            changes = page.refresh(values, entries, seen)
        except (UserError, OSError):
            names_now = {entry.name for entry in self.workspace.entries()}
            if {entry.name for entry in entries} <= names_now:
                raise
            return {}
        known[name] = seen
        return changes


def build(home: str | Path | None = None, *, worker: WorkerHandle | None = None,
          access: Access | None = None) -> Playground:
    """The page over the workspace `home` (PLAYGROUND_HOME, else ./workspace).

    `page.launch(**options(page))` serves it. Without `access` everybody who reaches the page is its owner, so whoever
    serves it to other computers passes one.
    """
    return Playground(home or default_home(), worker=worker, access=access)


def options(page: Playground) -> dict:
    """The settings of `page.launch`: its theme, its styles and scripts, and the routes of its server."""
    login = Login(page.access)
    routes = [*login.routes, page.polling.route, link_preview.IMAGE_ROUTE]
    middleware = [*login.middleware, link_preview.MIDDLEWARE]
    return {"theme": PlaygroundTheme(), "css_paths": CSS, "js": run_all("poll", "double_click", "follow_address"),
            "run_history": False, "ssr_mode": False, "footer_links": ["api", "settings", "gradio"],
            "i18n": gr.I18n(en=shared_text.GRADIO_WORDS), "app_kwargs": {"routes": routes, "middleware": middleware}}


def default_home() -> Path:
    """The workspace that is used unless another is named: PLAYGROUND_HOME, else ./workspace."""
    return Path(os.environ.get("PLAYGROUND_HOME") or "workspace").expanduser()


# -- serving -----------------------------------------------------------------------------------------------------------

def launch(home: str | Path | None = None, **settings) -> None:
    """Serve the page until Ctrl-C or SIGTERM. A live run goes on without it; an idle worker ends with it.

    Raises UserError if another page has the workspace, or another program the port that was asked for.
    """
    accept_any_text()
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    home = Path(home or default_home()).expanduser()
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(text.NO_HOME.format(home=home, reason=error.strerror)) from None
    with only_page(home):
        serve(home, settings)


def serve(home: Path, settings: dict) -> None:
    """Serve the page over a workspace that no other page has. settings: of `gr.Blocks.launch`. Raises UserError."""
    worker = Worker(home)
    host = os.environ.get("GRADIO_SERVER_NAME") or ("0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")
    # Decided here, because Gradio would share by itself in some notebooks.
    share = settings.pop("share", os.environ.get("GRADIO_SHARE", "").lower() == "true")
    page = build(home, worker=worker, access=Access.from_environment(host, shared=bool(share)))
    # SIGTERM, because a shell lets a program that it starts in the background ignore SIGINT.
    signal.signal(signal.SIGTERM, interrupt)
    asked = port_asked_for(settings.pop("server_port", None) or os.environ.get("GRADIO_SERVER_PORT", ""))
    try:
        _, url, _ = page.launch(server_name=host, server_port=asked, share=share, quiet=True, prevent_thread_lock=True,
                                **options(page), **settings)
    except OSError as error:
        if not asked:
            raise
        raise UserError(text.PORT_BUSY.format(port=asked)) from error
    note_address(home, url.rstrip("/"))
    print(text.READY.format(url=url.rstrip("/")), flush=True)
    port = urlsplit(url).port
    if not asked and port and port != USUAL_PORT:
        print(text.PORT_TAKEN.format(usual=USUAL_PORT, port=port), flush=True)
    if not page.access.has_owner:
        print(server_text.NO_OWNER, flush=True)
    ended = threading.Event()
    starter = threading.Thread(target=warm_up, args=(worker, page.first_look, ended), daemon=True)
    starter.start()
    helpers = [starter, *start_helpers(page, worker, ended)]
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        pass
    ended.set()
    page.first_look.set()  # a starter that still waits for it ends; one that is starting a worker is waited for
    for helper in helpers:
        helper.join(30)
    end_idle_worker(worker, page.workspace)
    page.close(verbose=False)


def port_asked_for(value: int | str) -> int | None:
    """The port that a setting names; None for an empty one. Raises UserError for what is no port."""
    if value == "":
        return None
    if not str(value).isdecimal() or not 0 < int(value) < 65536:
        raise UserError(text.NO_PORT.format(value=value))
    return int(value)


def start_helpers(page: Playground, worker: Worker, ended: threading.Event) -> list[threading.Thread]:
    """The threads that work beside the page until `ended` is set: the watch over visitors' runs, and the backup of
    votes.

    They see the workspace as its owner does.
    """
    home = page.workspace.home
    jobs: list[tuple[Callable, tuple]] = []
    if page.access.open:
        jobs.append((watch_visitors, (worker, Workspace(home), ended)))
    if repo := os.environ.get("PLAYGROUND_SYNC"):
        jobs.append((back_up, (FeedbackBackup(Workspace(home), repo), ended)))
    helpers = [threading.Thread(target=job, args=arguments, daemon=True) for job, arguments in jobs]
    for helper in helpers:
        helper.start()
    return helpers


def interrupt(number, frame) -> None:
    """The handler of SIGTERM: the same as Ctrl-C."""
    raise KeyboardInterrupt


def warm_up(worker: Worker, first_look: threading.Event, ended: threading.Event) -> None:
    """Start the worker, so that the first answer does not wait for it.

    Not before the first page is up, which that would slow down; and not once the page has `ended`, because nobody would
    end that worker.
    """
    first_look.wait(timeout=10)
    if ended.is_set():
        return
    try:
        worker.ensure()
    except UserError as error:
        print(error, flush=True)


def end_idle_worker(worker: Worker, workspace: Workspace) -> None:
    """Shut the worker down, unless a run is live."""
    if live := workspace.live():
        print(text.LEFT_RUNNING.format(name=live), flush=True)
    elif worker.alive():
        worker.shutdown()
