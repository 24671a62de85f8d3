"""Values as plain text."""

import math

from playground.components import text


def duration(seconds: float) -> str:
    """Seconds in words: "45 s", "3 min" or "1 h 30 min"."""
    seconds = math.ceil(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def sentence(row: dict) -> str:
    """A line of a journal in words. An event that has no words of its own shows its name and its text."""
    try:
        kind = row["event"]
        if kind == "reference" and not row["score_std"]:  # a reward that has learned nothing yet, or a constant one
            kind = "reference_alike"
        if kind == "takeover":
            kind = f"takeover_{takeover_kind(row)}"
        if kind == "turned" and row.get("opposite"):
            kind = "turned_opposite"
        return text.EVENT[kind].format(**row)
    except (KeyError, ValueError, IndexError):
        parts = [str(row.get(key, "")) for key in ("event", "text")]
        return ": ".join(part for part in parts if part)


def takeover_kind(row: dict) -> str:
    """What a line of a journal about a takeover says: that the `adapter` or the `features` lead, or that the adapter
    starts `anew`, in which case it has no accuracies."""
    if "adapter_accuracy" not in row:
        return "anew"
    return "adapter" if row["reward"] == "adapter" else "features"


def last_message(prompt) -> str:
    """A prompt as one line: a text as it is; of a conversation (a list of messages), the last message."""
    if isinstance(prompt, str):
        return prompt
    return str(prompt[-1]["content"]) if prompt else ""


def conversation(prompt) -> str:
    """A whole prompt as text: a text as it is; of a conversation of several turns, each turn with its role."""
    if isinstance(prompt, str) or len(prompt) < 2:
        return last_message(prompt)
    return "\n\n".join(f"{text.ROLES.get(turn['role'], turn['role'])}: {turn['content']}" for turn in prompt)


def shortened(line: str, length: int = 60) -> str:
    """The beginning of a line, with an ellipsis where it is longer than `length` characters."""
    return line if len(line) <= length else f"{line[:length - 1].rstrip()}…"


def two_decimals(value: float | None) -> str:
    """A number with two decimals; nothing for None."""
    return "" if value is None else f"{value:.2f}"


def plain(number: float) -> str:
    """A number with its four leading digits; a large one is written out, never as a power of ten."""
    return f"{number:.4g}" if abs(number) < 10_000 else f"{number:,.0f}"


def byte_size(count: float) -> str:
    """A number of bytes in MB or GB."""
    if count < 1 << 20:
        return f"{max(count / (1 << 20), 0.1):.1f} MB"
    if count < 1000 << 20:
        return f"{count / (1 << 20):.0f} MB"
    return f"{count / (1 << 30):.1f} GB"
