"""What the header of the page says to an owner, and to a visitor."""

from typing import NamedTuple

from playground.server import text
from playground.server.access import Access
from playground.server.worker_guard import MAX_SECONDS


class Greeting(NamedTuple):
    """The words about who is looking; all are empty where everybody is the owner."""

    kind: str = ""
    """A CSS class of the header: "visitor", and "open" where visitors may start runs."""
    sentence: str = ""
    """What a visitor may do."""
    link: str = ""
    """The words of the link to the login."""


def greeting(access: Access) -> Greeting:
    """The words for whoever made the request that is being answered."""
    if access.owner():
        return Greeting(link=text.YOU_OWN if access.password else "")
    link = text.TO_OWNER if access.password else ""
    if access.open:
        return Greeting("visitor open", text.VISITOR_OPEN.format(minutes=MAX_SECONDS // 60), link)
    return Greeting("visitor", text.VISITOR if access.has_owner else text.NO_OWNER, link)
