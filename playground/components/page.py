"""What a page of the playground has to offer: `playground.app` puts pages into tabs and sends browsers what has changed
on them."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from gradio.components import Component

from playground.workspace import RunSummary


@runtime_checkable
class Page(Protocol):
    """A page. Its constructor builds its components inside the current `gr.Blocks`, and binds what their buttons do.

    While a page's tab is in front, `refresh` is called whenever something in the workspace has changed, for each
    browser by itself.
    """

    @property
    def watched(self) -> set[Component]:
        """The components whose values `refresh` needs."""
        ...

    @property
    def outputs(self) -> Sequence[Component]:
        """All components that `refresh` may update."""
        ...

    def refresh(self, values: dict[Component, Any], entries: list[RunSummary],
                seen: dict[str, Any]) -> dict[Component, Any]:
        """The updates that a browser needs, by component; an empty dict if it shows everything already.

        values: the browser's values of the `watched` components, of all pages. entries: the runs of the workspace.
        seen: what this browser has been sent by this page, under keys of the page's own. `refresh` notes in it what it
        sends
            (`notices.mark_seen`).

        May raise UserError or OSError if a run has been removed since `entries` was listed; then the page is skipped
        this time.
        """
        ...
