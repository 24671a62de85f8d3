"""Where an owner gives the password: a small page of its own at `/owner`, which needs no script.

And who may send files.
"""

import json
from urllib.parse import parse_qs

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.components import text as shared_text
from playground.components.html import render
from playground.server import text
from playground.server.access import COOKIE, Access, address_of
from rlhf_engine.errors import UserError

MAX_FORM_BYTES = 10_000
"""The longest form of the login that is read."""
MAX_VISITOR_BYTES = 1_000_000
"""The longest request that is read from a visitor's browser."""
COOKIE_SECONDS = 30 * 24 * 3600


class Login:
    """The route `/owner`, and the middleware that keeps visitors' files out."""

    def __init__(self, access: Access):
        self.access = access

    @property
    def routes(self) -> list[Route]:
        """The routes of the login."""
        return [Route("/owner", self.answer, methods=["GET", "POST"])]

    @property
    def middleware(self) -> list[Middleware]:
        """What stands before all routes."""
        return [Middleware(OwnersFiles, access=self.access)]

    async def answer(self, request: Request) -> Response:
        """The form; after a right password the way back to the page, with a cookie; after a log-out without one."""
        if request.method == "GET":
            return login_page(self.access.is_owner(request))
        body = await read_body(request, MAX_FORM_BYTES)
        if body is None:
            return login_page(False, text.WRONG_PASSWORD, status=413)
        fields = parse_qs(body.decode(errors="replace"))
        back = RedirectResponse("./", status_code=303)
        if "leave" in fields:
            self.access.log_out(request.cookies.get(COOKIE, ""))
            back.delete_cookie(COOKIE)
            return back
        try:
            token = self.access.log_in(fields.get("password", [""])[0], address_of(request))
        except UserError as error:
            return login_page(False, str(error), status=403)
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
        back.set_cookie(COOKIE, token, max_age=COOKIE_SECONDS, httponly=True, samesite="lax", secure=secure)
        return back


def login_page(logged_in: bool, trouble: str = "", status: int = 200) -> HTMLResponse:
    """The login, or for an owner the log-out, with what went wrong."""
    page = render("server/login.html", title=shared_text.TITLE, text=text, logged_in=logged_in, trouble=trouble)
    return HTMLResponse(page, status_code=status, headers={"Cache-Control": "no-store", "X-Frame-Options": "DENY"})


async def read_body(request: Request, max_bytes: int) -> bytes | None:
    """The body of a request; None if it is longer than that."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            return None
    return body


class OwnersFiles:
    """Middleware that lets only an owner send files.

    Gradio takes in files, and downloads those that a request names, before any handler can ask who sent them. So a
    visitor's request is refused here if it is a form with files, if Gradio would read a file out of it, or if it is
    longer than a megabyte.
    """

    def __init__(self, app: ASGIApp, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not brings_data(scope) or self.access.is_owner(Request(scope, receive)):
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        has_files = "multipart" in request.headers.get("content-type", "")
        body = None if has_files else await read_body(request, MAX_VISITOR_BYTES)
        if body is None or names_file(body):
            refusal = PlainTextResponse(text.OWNERS_ONLY, status_code=403)
            await refusal(scope, receive, send)
            return
        unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            """Hand the application the body that was read here, then what comes after it."""
            return unread.pop() if unread else await receive()

        await self.app(scope, receive_again, send)


def brings_data(scope: Scope) -> bool:
    """Whether a request may bring files: one that is posted, but not to the login."""
    if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return False
    return not scope["path"].endswith("/owner")


def names_file(body: bytes) -> bool:
    """Whether Gradio would read a file out of this JSON, however its letters are escaped."""
    try:
        return "gradio.FileData" in json.dumps(json.loads(body))
    except ValueError:  # Gradio cannot read it either
        return False
    except RecursionError:
        return True
