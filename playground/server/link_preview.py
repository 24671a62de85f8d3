"""What other programs show of a link to the page: its own title, sentence and picture, in the place of Gradio's.

They read the `og:` and `twitter:` lines of the page. Gradio's template has fixed ones, so the page is rewritten on its
way out. The picture is served from here: nothing is fetched from another address.
"""

import re
from html import escape

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playground.components import text
from rlhf_engine.files import ASSETS

IMAGE_PATH, IMAGE = "/preview.jpg", ASSETS / "screenshots" / "teach-wide-light.jpg"
OLD_LINES = re.compile(r'<meta\s+(?:property|name)="(?:og|twitter):[^"]*"\s+content="[^"]*"\s*/>\s*')
HEAD = re.compile("<head[^>]*>")


async def send_image(request: Request) -> Response:
    """The picture of a preview."""
    return FileResponse(IMAGE, media_type="image/jpeg")


IMAGE_ROUTE = Route(IMAGE_PATH, send_image)


def address_of_page(scope: Scope) -> str:
    """The address under which the page was asked for, without a slash at its end; behind a proxy, that of the proxy.

    The folder under which a proxy serves the page is `root_path` of `launch`, or GRADIO_ROOT_PATH: a folder, or a whole
    address.
    """
    root = getattr(scope.get("app"), "root_path", "") or scope.get("root_path", "")
    if root.startswith(("http://", "https://")):
        return root.rstrip("/")
    headers = Headers(scope=scope)
    scheme = headers.get("x-forwarded-proto", scope["scheme"]).split(",")[0].strip()
    host = (headers.get("x-forwarded-host") or headers.get("host", "")).split(",")[0].strip()
    return "/".join([f"{scheme}://{host}", root.strip("/")]).rstrip("/")


def own_lines(address: str) -> str:
    """The lines for a page at `address`, which somebody may have made up: it is escaped."""
    values = {"og:type": "website", "og:url": f"{address}/", "og:title": text.TITLE, "og:description": text.PREVIEW,
              "og:image": address + IMAGE_PATH, "twitter:card": "summary_large_image"}
    return "".join(f'<meta property="{name}" content="{escape(value)}" />' for name, value in values.items())


def rewrite(page: str, address: str) -> str:
    """The HTML of the page with our own lines in the place of Gradio's."""
    without = OLD_LINES.sub("", page)
    return HEAD.sub(lambda head: f'{head[0]}<meta name="description" content="{escape(text.PREVIEW)}" />'
                                 + own_lines(address), without, count=1)


class LinkPreview:
    """Rewrites the answer to a request for the page itself. All others pass as they are."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        is_page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"].rstrip("/") == ""
        await self.app(scope, receive, Rewriter(scope, send) if is_page else send)


class Rewriter:
    """Takes in an answer, and sends it on: rewritten if it is HTML."""

    def __init__(self, scope: Scope, send: Send):
        self.scope, self.send = scope, send
        self.start: Message = {}
        self.body = b""

    async def __call__(self, message: Message) -> None:
        """Take in one message of the answer; the last one sends all of it."""
        if message["type"] == "http.response.start":
            self.start = message
            return
        self.body += message.get("body", b"")
        if message.get("more_body"):
            return
        headers = MutableHeaders(scope=self.start)
        if headers.get("content-type", "").startswith("text/html") and "content-encoding" not in headers:
            self.body = rewrite(self.body.decode(), address_of_page(self.scope)).encode()
            headers["content-length"] = str(len(self.body))
        await self.send(self.start)
        await self.send({"type": "http.response.body", "body": self.body})


MIDDLEWARE = Middleware(LinkPreview)
