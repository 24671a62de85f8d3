"""Which rows of a run's journal still hold: settings are changed while a run goes on, and a rewind undoes some of the
changes.

A setting is changed between two steps, after a checkpoint of the first. So a rewind to step 100 also undoes the changes
made at step 100.
"""

from rlhf_engine.config import current_name


def without_rewound(journal: list[dict]) -> list[dict]:
    """The journal without the rows that a rewind has undone."""
    rows: list[dict] = []
    for row in journal:
        if row.get("event") == "rewound" and "step" in row:
            rows = [old for old in rows if _survives(old, row["step"])]
        rows.append(row)
    return rows


def unsaved_events(journal: list[dict], step: int) -> list[dict]:
    """The rows about what came after the checkpoint of `step` and was not undone by a rewind.

    The run that is resumed from that checkpoint repeats them.
    """
    rows: list[dict] = []
    for row in journal:
        if row["event"] == "rewound":
            rows = [old for old in rows if _survives(old, row["step"])]
        elif row["event"] not in ("data", "fitted", "resumed") and "step" in row:
            rows.append(row)
    return [row for row in rows if not _survives(row, step)]


def effective_settings(config: dict, journal: list[dict]) -> dict:
    """The settings in force: those with which a run began, with the changes made since."""
    settings = dict(config)
    for row in journal:
        if row.get("event") == "changed" and "name" in row and "new" in row:
            settings[current_name(row["name"])] = row["new"]
    return settings


def changes_by_setting(journal: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """Setting -> (first step with the new value, new value) of each change that no rewind has undone, oldest first."""
    changes: dict[str, list[tuple[int, float]]] = {}
    for row in without_rewound(journal):
        if row.get("event") == "changed" and {"name", "new", "step"} <= set(row):
            changes.setdefault(current_name(row["name"]), []).append((row["step"] + 1, row["new"]))
    return changes


def _survives(row: dict, step: int) -> bool:
    """Whether what a row tells of is part of the checkpoint of `step`."""
    if row.get("event") == "changed":
        return row.get("step", 0) < step
    return row.get("step", 0) <= step
