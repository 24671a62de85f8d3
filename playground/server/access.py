"""Who may do what. An owner trains, loads models and opens files; visitors watch, vote and chat, within limits.

On this computer alone everybody is the owner. Elsewhere it is who knows PLAYGROUND_PASSWORD (at `/owner`, or in the header
`x-playground-password` of a program's requests), and on a Hugging Face Space whoever that belongs to. Gradio says in whose name a handler
runs, so what they all end up calling (`GuardedWorker`, `Workspace`, `VotingService`, `FeedbackIndex`) asks here, and no handler can forget to.
"""

import os
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from typing import NamedTuple

from gradio.context import LocalContext

from playground.server import text
from rlhf_engine.errors import UserError

COOKIE, HEADER = "rlhf-playground-owner", "x-playground-password"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
REMEMBERED = 10_000
"""Visitors whose last minute is kept in memory; of those beyond, the one who was heard of longest ago is forgotten."""


class RateLimit(NamedTuple):
    """How often something may be done in a minute: in one browser tab, from one address, and by all together."""

    tab: int
    address: int
    all: int


LIMITS = {"vote": RateLimit(40, 400, 800), "chat": RateLimit(10, 60, 120), "start": RateLimit(2, 4, 8), "login": RateLimit(10, 10, 60)}
"""A class behind one address votes as fast as it reads; a program that floods the page does not get through. Of logins, only those with a
wrong password count."""
LONGEST = 8_000
"""Characters of what a visitor writes at once: a question with all that was said before, or an own answer."""


class Access:
    """Safe to use from any thread. `alone` is a page that only this computer reaches."""

    def __init__(self, *, alone: bool = True, password: str = "", space_owner: str = "", open: bool = False):
        self.everyone = alone and not password
        self.password, self.space_owner, self.open = password, space_owner, open
        self._tokens: set[str] = set()
        self._times: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, host: str, *, shared: bool = False) -> "Access":
        """For a page bound to `host`; `shared` by a public link as well."""
        space = os.environ.get("SPACE_ID", "")
        return cls(alone=host in LOOPBACK and not shared and not space, password=os.environ.get("PLAYGROUND_PASSWORD", ""),
                   space_owner=os.environ.get("SPACE_AUTHOR_NAME") or space.partition("/")[0],
                   open=os.environ.get("PLAYGROUND_OPEN", "") == "1")

    @property
    def has_owner(self) -> bool:
        return self.everyone or bool(self.password or self.space_owner)

    # -- who it is ---------------------------------------------------------------------------------------------------

    def owner(self) -> bool:
        """Whether the handler that is running does so for an owner; outside of any request nobody is, but where everyone is."""
        return self.is_owner(asking())

    def is_owner(self, request) -> bool:
        """Of a Gradio or Starlette request, or None."""
        if self.everyone or request is None:
            return self.everyone
        if self.password and (token_of(request) in self._tokens or self._tried(header(request, HEADER), address_of(request))):
            return True
        return bool(self.space_owner) and self.space_owner in names_of(request)

    def owners_only(self) -> None:
        """Raises UserError for a visitor."""
        if not self.owner():
            raise UserError(text.OWNERS_ONLY_LOGIN if self.password else text.OWNERS_ONLY)

    def log_in(self, password: str, address: str) -> str:
        """A token for the cookie of who knows the password. Raises UserError for who does not, or has tried too often."""
        self._check(password, address)
        token = secrets.token_urlsafe(32)
        self._tokens.add(token)
        return token

    def log_out(self, token: str) -> None:
        self._tokens.discard(token)

    def _check(self, password: str, address: str) -> None:
        """Raises UserError for a wrong password, which is counted, and for any after too many of them."""
        tries = (("address", address), ("all", ""))
        self._count("login", tries, only_look=True)
        if not secrets.compare_digest(password.encode(), self.password.encode()) or not self.password:
            self._count("login", tries)
            raise UserError(text.WRONG_PASSWORD)

    def _tried(self, password: str, address: str) -> bool:
        """Whether the password of a header is right; a wrong one counts as one at the login."""
        if not password:
            return False
        try:
            self._check(password, address)
        except UserError:
            return False
        return True

    # -- how often ---------------------------------------------------------------------------------------------------

    def limit(self, what: str, message: str = "") -> None:
        """Count one thing of LIMITS that a visitor does. Raises UserError where that is too much for a minute, or the text too long."""
        request = asking()
        if self.is_owner(request):
            return
        if len(message) > LONGEST:
            raise UserError(text.TOO_LONG.format(count=len(message), longest=LONGEST))
        tab = str(getattr(request, "session_hash", None) or "")[:64]
        self._count(what, (("all", ""), ("address", address_of(request)), ("tab", tab)))

    def _count(self, what: str, levels: tuple, *, only_look: bool = False) -> None:
        now = time.monotonic()
        with self._lock:
            counted = []
            for level, name in levels:
                times = self._times.get((what, level, name), deque())
                while times and times[0] <= now - 60:
                    times.popleft()
                if len(times) >= getattr(LIMITS[what], level):
                    raise UserError(text.TOO_OFTEN[what].format(seconds=int(times[0] + 61 - now)))
                counted.append(((what, level, name), times))
            for key, times in () if only_look else counted:
                times.append(now)
                self._times[key] = times
                self._times.move_to_end(key)
            while len(self._times) > REMEMBERED:
                self._times.popitem(last=False)


# -- what a request says -------------------------------------------------------------------------------------------------

def asking():
    """The request for which Gradio runs the present handler, or None."""
    return LocalContext.request.get(None)


def plain(request):
    """The Starlette request inside a Gradio one."""
    return getattr(request, "request", None) or request


def header(request, name: str, *, among: str = "headers") -> str:
    found = getattr(plain(request), among, {})
    return found.get(name, "") if hasattr(found, "get") else ""


def token_of(request) -> str:
    return header(request, COOKIE, among="cookies")


def names_of(request) -> set[str]:
    """Who is logged in with Hugging Face, and the organisations that they belong to."""
    scope = getattr(plain(request), "scope", {})
    session = scope.get("session") if isinstance(scope, Mapping) else None
    info = (session or {}).get("oauth_info") or {}
    if not info or info.get("expires_at", 0) < time.time():
        return set()
    user = info.get("userinfo", {})
    return {name for one in (user, *(user.get("orgs") or [])) if (name := one.get("preferred_username"))}


def address_of(request) -> str:
    """Where a request comes from; on a Space, behind its proxies, what the first of those said."""
    if os.environ.get("SPACE_ID") and (forwarded := header(request, "x-forwarded-for")):
        return forwarded.partition(",")[0].strip()
    client = getattr(plain(request), "client", None)
    return getattr(client, "host", None) or ""
