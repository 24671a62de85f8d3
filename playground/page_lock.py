"""One page over a workspace. Two would each back up its votes, count its visitors, and end its worker when they end."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from playground import text
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json_or_none, write_json

LOCK_FILE, PAGE_FILE = "page.lock", "page.json"
"""In the workspace: the lock, and the address of the page that holds it."""


@contextmanager
def only_page(home: Path) -> Iterator[None]:
    """Hold the workspace `home` for this page. Raises UserError if another page has it.

    The system drops the lock when this process ends, however that happens. Where files cannot be locked, as on some
    network drives, nothing is refused.
    """
    home.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home / LOCK_FILE, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise UserError(text.PAGE_OPEN.format(home=home, url=address_in(home))) from None
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            (home / PAGE_FILE).unlink(missing_ok=True)
        lock.release()


def note_address(home: Path, url: str) -> None:
    """Write down where the page is, for one that is started later."""
    with suppress(OSError):
        write_json(home / PAGE_FILE, {"url": url})


def address_in(home: Path) -> str:
    """The address of the page that holds a workspace; some words where it is not known yet."""
    page = read_json_or_none(home / PAGE_FILE)
    return str(page["url"]) if isinstance(page, dict) and "url" in page else text.PAGE_STARTING
