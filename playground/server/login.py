"""Where an owner says the password: a small page of its own at `/owner`, which needs no script; and uploads, which are the owner's."""

import json
from html import escape
from urllib.parse import parse_qs

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from playground.components import text as shared_text
from playground.server import text
from playground.server.access import COOKIE, Access, address_of
from rlhf_engine.errors import UserError

LONGEST, LARGEST = 10_000, 1_000_000
"""Bytes of the form that are read, and of what a visitor's browser sends to the page."""
DAYS = 30 * 24 * 3600
STYLE = """:root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:12vh auto;padding:0 1rem}
input,button{font:inherit;padding:.5rem .7rem;margin:.4rem 0;width:100%;box-sizing:border-box}[role=alert]{color:#D55E00}"""


class Login:
    def __init__(self, access: Access):
        self.access = access

    @property
    def routes(self) -> list[Route]:
        return [Route("/owner", self.owner, methods=["GET", "POST"])]

    @property
    def middleware(self) -> list[Middleware]:
        return [Middleware(OwnersFiles, access=self.access)]

    async def owner(self, request: Request) -> Response:
        if request.method == "GET":
            return form(self.access.is_owner(request))
        body = b""
        async for part in request.stream():
            if len(body := body + part) > LONGEST:
                return form(False, text.WRONG_PASSWORD, status=413)
        given = parse_qs(body.decode(errors="replace"))
        back = RedirectResponse("./", status_code=303)
        if "leave" in given:
            self.access.log_out(request.cookies.get(COOKIE, ""))
            back.delete_cookie(COOKIE)
            return back
        try:
            token = self.access.log_in(given.get("password", [""])[0], address_of(request))
        except UserError as error:
            return form(False, str(error), status=403)
        secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))
        back.set_cookie(COOKIE, token, max_age=DAYS, httponly=True, samesite="lax", secure=secure)
        return back


def form(inside: bool, trouble: str = "", status: int = 200) -> HTMLResponse:
    field = (f'<p>{text.IS_OWNER}</p><button name="leave" value="1">{text.LOG_OUT}</button>' if inside else
             f'<label>{text.PASSWORD}<input type="password" name="password" autocomplete="current-password" autofocus required></label>'
             f'<button>{text.LOG_IN}</button>')
    wrong = f'<p role="alert">{escape(trouble)}</p>' if trouble else ""
    page = ('<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f'<title>{shared_text.TITLE}</title><style>{STYLE}</style><h1>{shared_text.TITLE}</h1>{wrong}<form method="post">{field}</form>'
            f'<p><a href="./">{text.BACK_TO_PAGE}</a></p></html>')
    return HTMLResponse(page, status_code=status, headers={"Cache-Control": "no-store", "X-Frame-Options": "DENY"})


class OwnersFiles:
    """Gradio takes in files, and fetches those that a request names, before any handler can ask for whom. Not for a visitor: neither a
    form with files, nor what reads like one to Gradio, nor more than a megabyte at once."""

    def __init__(self, app, access: Access):
        self.app, self.access = app, access

    async def __call__(self, scope, receive, send) -> None:
        posted = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS") and not scope["path"].endswith("/owner")
        if not posted or self.access.is_owner(request := Request(scope, receive)):
            await self.app(scope, receive, send)
            return
        body, refused = b"", "multipart" in request.headers.get("content-type", "")
        if not refused:
            async for part in request.stream():
                if refused := len(body := body + part) > LARGEST:
                    break
        if refused or names_file(body):
            await PlainTextResponse(text.OWNERS_ONLY, status_code=403)(scope, receive, send)
            return
        rest = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again():
            return next(rest, None) or await receive()
        await self.app(scope, again, send)


def names_file(body: bytes) -> bool:
    """Whether Gradio would read a file out of this JSON, however its letters are written."""
    try:
        return "gradio.FileData" in json.dumps(json.loads(body))
    except ValueError:  # nor can Gradio read it
        return False
    except RecursionError:
        return True
