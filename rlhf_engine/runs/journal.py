"""What of a run's journal still holds: settings were changed while the run went on, and rewinds have undone some of it."""


from rlhf_engine.config import current_name


def without_rewound(journal: list[dict]) -> list[dict]:
    """The journal without what a rewind has undone."""
    kept: list[dict] = []
    for row in journal:
        if row.get("event") == "rewound" and "step" in row:  # to a checkpoint, which knows of no setting that was changed after it
            kept = [old for old in kept if old.get("step", 0) < row["step"] + (old.get("event") != "changed")]
        kept.append(row)
    return kept


def effective_settings(config: dict, journal: list[dict]) -> dict:
    """The settings with which a run began, with what was changed since."""
    return config | {current_name(row["name"]): row["new"] for row in journal if row.get("event") == "changed" and {"name", "new"} <= set(row)}
