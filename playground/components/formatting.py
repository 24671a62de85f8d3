"""Values as plain text."""

import math

from playground.components import text


def duration(seconds: float) -> str:
    seconds = math.ceil(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def sentence(row: dict) -> str:
    """A journal line in words; an event without words of its own shows its name and its text."""
    try:
        return text.EVENT[row["event"]].format(**row)
    except (KeyError, ValueError, IndexError):
        return ": ".join(str(part) for part in (row.get("event", ""), row.get("text", "")) if part != "")


def said(prompt) -> str:
    """A prompt as text: as it is, or the last message of a conversation."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"]) if prompt else ""


def conversation(prompt) -> str:
    """A prompt as one text: as it is, or who says what where there are several turns."""
    if isinstance(prompt, str) or len(prompt) < 2:
        return said(prompt)
    return "\n\n".join(f"{text.ROLES.get(turn['role'], turn['role'])}: {turn['content']}" for turn in prompt)


def number(value) -> str:
    return "" if value is None else f"{value:.2f}"


def plain(number: float) -> str:
    """A number with as many digits as mean something, and never as a power of ten where it is large."""
    return f"{number:.4g}" if abs(number) < 10_000 else f"{number:,.0f}"


def byte_size(count: float) -> str:
    """A number of bytes in MB or GB."""
    if count < 1 << 20:
        return f"{max(count / (1 << 20), 0.1):.1f} MB"
    if count < 1000 << 20:
        return f"{count / (1 << 20):.0f} MB"
    return f"{count / (1 << 30):.1f} GB"
