"""Who may do what. An owner trains, loads models and opens files; visitors watch, vote and chat, within limits.

On a computer of one's own everybody is the owner. Elsewhere the owner is who knows PLAYGROUND_PASSWORD (given at
`/owner`, or in the header `x-playground-password` of a program's requests), and on a Hugging Face Space the account or
organisation that it belongs to. Gradio knows whose request a handler is working for. All handlers end up calling
`GuardedWorker`, `Workspace`, `VotingService` or `FeedbackIndex`, and these ask here, so no handler can forget to.
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
MAX_COUNTERS = 10_000
"""Visitors whose last minute is kept in memory. Beyond that, the one who was seen longest ago is forgotten."""
WINDOW = 60
"""Seconds over which the limits count."""


class RateLimit(NamedTuple):
    """How often something may be done in a minute: in one browser tab, from one address, and by everybody together."""

    tab: int
    address: int
    all: int


LIMITS = {"vote": RateLimit(40, 400, 800), "chat": RateLimit(10, 60, 120), "start": RateLimit(2, 4, 8),
          "login": RateLimit(10, 10, 60)}
"""A class behind one address can vote as fast as it reads; a program that floods the page cannot. Of logins, only those
with a wrong password count."""
LONGEST_TEXT = 8_000
"""Characters that a visitor may send at once: a question with the conversation before it, or an answer of their own."""


class Access:
    """Tells owners from visitors, and counts what visitors do. Safe to use from any thread.

    `alone` means that only this computer reaches the page; `open`, that visitors may start small runs.
    """

    def __init__(self, *, alone: bool = True, password: str = "", space_owner: str = "", open: bool = False):
        self.everyone = alone and not password
        """Everybody is the owner."""
        self.password, self.space_owner, self.open = password, space_owner, open
        self._tokens: set[str] = set()
        self._times: OrderedDict[tuple[str, str, str], deque[float]] = OrderedDict()
        """(what, level, name) -> when it was done, within the last minute. The one that was used longest ago comes
        first."""
        self._lock = threading.Lock()

    @classmethod
    def from_environment(cls, host: str, *, shared: bool = False) -> "Access":
        """The access of a page that is bound to `host`, and perhaps `shared` by a public link."""
        space = os.environ.get("SPACE_ID", "")
        return cls(alone=host in LOOPBACK and not shared and not space,
                   password=os.environ.get("PLAYGROUND_PASSWORD", ""),
                   space_owner=os.environ.get("SPACE_AUTHOR_NAME") or space.partition("/")[0],
                   open=os.environ.get("PLAYGROUND_OPEN", "") == "1")

    @property
    def has_owner(self) -> bool:
        """Whether anybody can be the owner."""
        return self.everyone or bool(self.password or self.space_owner)

    # -- who it is -----------------------------------------------------------------------------------------------------

    def owner(self) -> bool:
        """Whether the running handler works for an owner. Outside of any request nobody is one, unless everybody is."""
        return self.is_owner(current_request())

    def is_owner(self, request) -> bool:
        """Whether a request (of Gradio or Starlette, or None) comes from an owner."""
        if self.everyone or request is None:
            return self.everyone
        if self.password:
            if token_of(request) in self._tokens:
                return True
            if self._is_password(header(request, HEADER), address_of(request)):
                return True
        return bool(self.space_owner) and self.space_owner in account_names(request)

    def owners_only(self) -> None:
        """Raises UserError for a visitor."""
        if not self.owner():
            raise UserError(text.OWNERS_ONLY_LOGIN if self.password else text.OWNERS_ONLY)

    def starters_only(self) -> None:
        """Raises UserError for somebody who may not start a run, whatever its settings.

        It is asked before the settings are looked at: a stranger is not told what is wrong with them.
        """
        if not self.open:
            self.owners_only()

    def log_in(self, password: str, address: str) -> str:
        """A token for the cookie of whoever knows the password.

        Raises UserError for a wrong password, and after too many of them.
        """
        self._check_password(password, address)
        token = secrets.token_urlsafe(32)
        self._tokens.add(token)
        return token

    def log_out(self, token: str) -> None:
        """Make a token worthless."""
        self._tokens.discard(token)

    def _check_password(self, password: str, address: str) -> None:
        """Raises UserError for a wrong password, which is counted, and for any password after too many wrong ones."""
        levels = (("address", address), ("all", ""))
        self._count("login", levels, only_check=True)
        if not self.password or not secrets.compare_digest(password.encode(), self.password.encode()):
            self._count("login", levels)
            raise UserError(text.WRONG_PASSWORD)

    def _is_password(self, password: str, address: str) -> bool:
        """Whether the password in a header is right. A wrong one counts like one at the login."""
        if not password:
            return False
        try:
            self._check_password(password, address)
        except UserError:
            return False
        return True

    # -- how often -----------------------------------------------------------------------------------------------------

    def limit(self, what: str, message: str = "") -> None:
        """Count one action of a visitor, by its name in LIMITS.

        Raises UserError if that is too often, or if `message` is too long.
        """
        request = current_request()
        if self.is_owner(request):
            return
        if len(message) > LONGEST_TEXT:
            raise UserError(text.TOO_LONG.format(count=len(message), longest=LONGEST_TEXT))
        tab = str(getattr(request, "session_hash", None) or "")[:64]
        self._count(what, (("all", ""), ("address", address_of(request)), ("tab", tab)))

    def _count(self, what: str, levels: tuple[tuple[str, str], ...], *, only_check: bool = False) -> None:
        """Count one action at each level: (field of RateLimit, name).

        Raises UserError, and counts nothing, if one level is full.
        """
        now = time.monotonic()
        with self._lock:
            counters = []
            for level, name in levels:
                times = self._times.get((what, level, name), deque())
                while times and times[0] <= now - WINDOW:
                    times.popleft()
                if len(times) >= getattr(LIMITS[what], level):
                    raise UserError(text.TOO_OFTEN[what].format(seconds=int(times[0] + WINDOW + 1 - now)))
                counters.append(((what, level, name), times))
            if only_check:
                return
            for key, times in counters:
                times.append(now)
                self._times[key] = times
                self._times.move_to_end(key)
            while len(self._times) > MAX_COUNTERS:
                self._times.popitem(last=False)


# -- what a request says -----------------------------------------------------------------------------------------------

def current_request():
    """The request for which Gradio runs the present handler, or None."""
    return LocalContext.request.get(None)


def starlette_request(request):
    """The Starlette request inside one of Gradio, or the request itself."""
    return getattr(request, "request", None) or request


def header(request, name: str, *, kind: str = "headers") -> str:
    """A header of a request, or with kind="cookies" a cookie; empty if it has none."""
    values = getattr(starlette_request(request), kind, {})
    return values.get(name, "") if hasattr(values, "get") else ""


def token_of(request) -> str:
    """The token that a login has put into the browser's cookie."""
    return header(request, COOKIE, kind="cookies")


def account_names(request) -> set[str]:
    """The Hugging Face account that is logged in, and the organisations that it belongs to."""
    scope = getattr(starlette_request(request), "scope", {})
    session = scope.get("session") if isinstance(scope, Mapping) else None
    info = (session or {}).get("oauth_info") or {}
    if not info or info.get("expires_at", 0) < time.time():
        return set()
    user = info.get("userinfo", {})
    accounts = [user, *(user.get("orgs") or [])]
    return {account["preferred_username"] for account in accounts if account.get("preferred_username")}


def address_of(request) -> str:
    """The address from which a request comes.

    On a Space, behind its proxies, it is the one that the first of them noted.
    """
    forwarded = header(request, "x-forwarded-for")
    if forwarded and os.environ.get("SPACE_ID"):
        return forwarded.partition(",")[0].strip()
    client = getattr(starlette_request(request), "client", None)
    return getattr(client, "host", None) or ""
