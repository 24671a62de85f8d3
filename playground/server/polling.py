"""When a browser looks at the page again: as soon as there is news, unless so many look that the training would suffer.

Every browser asks `/mark`, which costs next to nothing, whether anything in the workspace has changed, and is told when to ask again. Only
after a change does it look, which costs some hundredths of a second: of `Workspace` once more, and of everything that it shows.
"""

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from hashlib import sha256
from pathlib import Path

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from playground.server.export_jobs import LOG, MADE
from playground.server.feedback_backup import STATUS
from playground.workspace import Workspace

FASTEST = 0.7
"""Seconds between two questions of one browser, while there are few; on a Space, which is further away, `FASTEST_SPACE`."""
FASTEST_SPACE = 2.0
AGE = 0.25
"""Seconds for which a mark is good for all who ask."""
SLOWEST = 60.0
"""However many say that they look: anybody can say so."""
SHARE = 0.1
"""Of one processor: what all looks together may take."""
AROUND = 2.5
"""What Gradio needs to take in a look and to send its outcome, as a multiple of the look itself."""
GONE, REMEMBERED = 60.0, 10_000
"""Seconds after which a browser that has asked nothing is gone; browsers counted at most."""
REST = 15.0
"""Seconds after which a browser looks in any case."""


class Pace:
    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.fastest = FASTEST_SPACE if os.environ.get("SPACE_ID") else FASTEST
        self.cost = 0.01
        """Processor seconds of a look, averaged over the last ones."""
        self._tabs: OrderedDict[str, float] = OrderedDict()
        self._mark, self._made, self._making = "", 0.0, threading.Lock()

    @property
    def route(self) -> Route:
        return Route("/mark", self.answer)

    async def answer(self, request: Request) -> Response:
        """{"mark": what changes whenever anything does, "after": seconds until the next question, "rest": until a look in any case}."""
        after = self.after(request.query_params.get("tab", "")[:40], time.monotonic())
        mark = await anyio.to_thread.run_sync(self.mark) if time.monotonic() - self._made > AGE else self._mark
        return JSONResponse({"mark": mark, "after": round(after, 2), "rest": max(REST, 3 * after)}, headers={"Cache-Control": "no-store"})

    def after(self, tab: str, now: float) -> float:
        """Seconds after which a browser may ask again, so that looks of all who ask stay within their share of the processor."""
        self._tabs[tab] = now
        self._tabs.move_to_end(tab)
        while len(self._tabs) > REMEMBERED or next(iter(self._tabs.values())) < now - GONE:
            self._tabs.popitem(last=False)
        return min(max(self.fastest, len(self._tabs) * self.cost * AROUND / SHARE), SLOWEST)

    def timed(self, look: Callable) -> Callable:
        """The same look, and what it takes is known."""
        @wraps(look)
        def timed(values: dict):
            start = time.thread_time()
            try:
                return look(values)
            finally:
                self.cost += 0.1 * (time.thread_time() - start - self.cost)
        return timed

    def mark(self) -> str:
        """Made anew at most every `AGE` seconds; whoever asks while another is at it gets the last one."""
        if self._making.acquire(blocking=False):
            try:
                self._mark = sha256(repr(self._state()).encode()).hexdigest()[:16]
                self._made = time.monotonic()
            finally:
                self._making.release()
        return self._mark

    def _state(self) -> list:
        """All that the page shows, by sizes and times."""
        space, entries = self.workspace, self.workspace.entries()
        growing = [space.runs / e.name / name for e in entries if e.alive for name in ("metrics.jsonl", "samples.jsonl", "journal.jsonl",
                                                                                       "queries.jsonl")]
        others = [space.home / "feedback.sqlite", space.home / "feedback.sqlite-wal", space.home / STATUS, space.uploads, space.models,
                  space.home / LOG, space.home / MADE]
        return [entries, [version(path) for path in (*growing, *others)]]


def version(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
