"""When a browser looks at the page again: as soon as there is news, unless so many look that training would suffer.

Every browser asks `/mark`, which costs next to nothing, whether anything in the workspace has changed, and is told when
to ask again. Only after a change does it look. A look costs some hundredths of a second, because the page then reads
the workspace.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from hashlib import sha256
from pathlib import Path

import anyio.to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from playground.components.html import conversion
from playground.server.export_jobs import LOG, MADE
from playground.server.feedback_backup import STATUS
from playground.workspace import Workspace

SHORTEST_WAIT, SHORTEST_WAIT_SPACE = 0.7, 2.0
"""Seconds between two questions of one browser while there are few of them: here, and on a Space, which is further
away."""
LONGEST_WAIT = 60.0
"""Seconds between two questions, however many browsers seem to look: a program can pretend to be many."""
LONGEST_REST = 15.0
"""Seconds after which a browser looks even without news."""
MARK_AGE = 0.25
"""Seconds for which a mark holds for everybody who asks."""
SHARE = 0.1
"""The share of one processor that all looks together may take."""
OVERHEAD = 2.5
"""What a look costs with Gradio's work around it, as a multiple of the look itself."""
FORGET_AFTER = 60.0
"""Seconds after which a browser that has not asked is no longer counted."""
MAX_BROWSERS = 10_000
"""Browsers that are counted."""


class Polling:
    """Answers `/mark`, and measures what a look costs."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.shortest_wait = SHORTEST_WAIT_SPACE if os.environ.get("SPACE_ID") else SHORTEST_WAIT
        self.cost = 0.01
        """Processor seconds of a look, averaged over the last ones."""
        self._last_asked: OrderedDict[str, float] = OrderedDict()
        """Browser tab -> when it asked last; the one that has not asked for longest comes first."""
        self._mark, self._marked_at, self._marking = "", 0.0, threading.Lock()

    @property
    def route(self) -> Route:
        """The route `/mark` of the server."""
        return Route("/mark", self.answer)

    async def answer(self, request: Request) -> Response:
        """The answer to one question of a browser, as JSON.

        `mark` is another text whenever anything has changed. `after` is the number of seconds until the next question,
        `rest` that until a look in any case.
        """
        wait = self.wait_of(request.query_params.get("tab", "")[:40], time.monotonic())
        mark = self._mark
        if time.monotonic() - self._marked_at > MARK_AGE:
            mark = await anyio.to_thread.run_sync(self.mark)
        answer = {"mark": mark, "after": round(wait, 2), "rest": max(LONGEST_REST, 3 * wait)}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    def wait_of(self, tab: str, now: float) -> float:
        """Seconds after which a browser tab may ask again.

        The more tabs there are, the longer: all looks together stay within their share of the processor.
        """
        tabs = self._last_asked
        tabs[tab] = now
        tabs.move_to_end(tab)
        while len(tabs) > MAX_BROWSERS or next(iter(tabs.values())) < now - FORGET_AFTER:
            tabs.popitem(last=False)
        wait = len(tabs) * self.cost * OVERHEAD / SHARE
        return min(max(self.shortest_wait, wait), LONGEST_WAIT)

    def timed(self, look: Callable[[dict], dict]) -> Callable[[dict], dict]:
        """The same function, whose cost is measured."""
        @wraps(look)
        def timed_look(values: dict):
            start = time.thread_time()
            try:
                return look(values)
            finally:
                self.cost += 0.1 * (time.thread_time() - start - self.cost)
        return timed_look

    def mark(self) -> str:
        """A text that is another one whenever anything on the page has changed.

        Whoever asks while it is being made gets the last one.
        """
        if self._marking.acquire(blocking=False):
            try:
                self._mark = sha256(repr(self._state()).encode()).hexdigest()[:16]
                self._marked_at = time.monotonic()
            finally:
                self._marking.release()
        return self._mark

    def _state(self) -> list:
        """Everything that the page shows, as sizes and times of files."""
        space, entries = self.workspace, self.workspace.entries()
        files = []
        for entry in entries:
            if entry.alive:
                folder = space.runs / entry.name
                files += [folder / f"{name}.jsonl" for name in ("metrics", "samples", "journal", "queries")]
        files += [space.home / name for name in ("feedback.sqlite", "feedback.sqlite-wal", STATUS, LOG, MADE)]
        files += [space.uploads, space.models]
        return [entries, [version_of(path) for path in files], conversion(space)[0]]


def version_of(path: Path) -> tuple[int, int] | None:
    """The time and the size of a file or folder; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
