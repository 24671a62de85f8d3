"""What the tests of several pages need to make."""

from playground.app import build


def live_of(workspace, worker):
    """The app, its function that refreshes a page, and its components by element id."""
    demo = build(workspace.home, worker=worker).blocks
    look = next(f for f in demo.fns.values() if getattr(f.fn, "__name__", "") == "look")
    parts = {c.elem_id: c for c in demo.blocks.values() if getattr(c, "elem_id", None)}
    return demo, look, parts
