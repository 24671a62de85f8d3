"""What the tests of several pages need to make."""

from playground.app import build
from rlhf_engine.runs.folder import Run


def ask(run: Run, number: int, count: int = 4, text: str = "") -> None:
    """Add one more query to a run, as the trainer writes it."""
    run.add_queries([{"id": f"q{number}", "prompt": f"prompt {number} {text}", "responses": [f"answer {number}.{i} {text}" for i in range(1, count + 1)],
                      "scores": [0.5] * count, "step": 2, "sampling": {"max_new_tokens": 8}, "run": run.id, "checkpoint": "taste at step 2"}])


def live_of(workspace, worker):
    """The app, its function that refreshes a page, and its components by element id."""
    demo = build(workspace.home, worker=worker)
    look = next(f for f in demo.fns.values() if getattr(f.fn, "__name__", "") == "look")
    parts = {c.elem_id: c for c in demo.blocks.values() if getattr(c, "elem_id", None)}
    return demo, look, parts
