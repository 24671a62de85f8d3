"""How the reward's guesses get better: a mark for each vote that it predicted before it learned it."""

from typing import Any

from playground.pages.teach import text

BLOCK, NEWEST = 10, 60
"""Marks that stand together, with their count below them; and how many of the newest marks are shown."""
KINDS = {1.0: "hit", 0.0: "miss"}
"""What a mark is, by the prediction. Others are no guess: the reward found the best answers equally good."""
SIGNS = {"hit": "✓", "miss": "✕", "none": "·"}


def predictions_of(rows: list[dict]) -> list[float]:
    """The predictions in the lines of a journal about the reward, the oldest first; votes without an order have none.

    Lines of earlier versions only count them, and are left out.
    """
    predictions: list[float] = []
    for row in rows:
        predictions += [value for value in row.get("predictions", ()) if value is not None]
    return predictions


def guess_strip(rows: list[dict], choices: int) -> dict[str, Any] | None:
    """The values of the strip of marks, from the lines of a journal about the reward; None where there are none.

    choices: how many responses a question shows.
    """
    predictions = predictions_of(rows)
    if not predictions:
        return None
    marks = [KINDS.get(value, "none") for value in predictions]
    first = max(0, len(marks) - NEWEST) // BLOCK * BLOCK
    blocks = [block_of(marks, start) for start in range(first, len(marks), BLOCK)]
    right, guesses = marks.count("hit"), marks.count("hit") + marks.count("miss")
    share = text.GUESSES_SO_FAR.format(right=right, guesses=guesses, share=right / guesses, choices=choices) \
        if guesses else text.NO_GUESS_YET
    left_out = text.GUESSES_LEFT_OUT.format(count=first) if first else ""
    spoken = "; ".join([share, *(block["spoken"] for block in blocks)])
    return {"blocks": blocks, "share": share, "left_out": left_out, "label": text.GUESSES_ALT.format(spoken=spoken)}


def block_of(marks: list[str], start: int) -> dict[str, Any]:
    """The values of the block of marks that begins at the index `start`."""
    part = marks[start:start + BLOCK]
    right, guesses = part.count("hit"), part.count("hit") + part.count("miss")
    count = text.BLOCK_SHARE.format(right=right, guesses=guesses) if guesses else text.BLOCK_BLIND
    spoken = text.BLOCK_SPOKEN.format(first=start + 1, last=start + len(part), count=count)
    signs = [{"kind": kind, "sign": SIGNS[kind]} for kind in part]
    return {"signs": signs, "count": count, "spoken": spoken}
