"""The votes that a resumed run has to learn once more, from its journal."""


class VoteReplay:
    """For each step that is repeated, the ids of the events that it learned from, grouped as they were learned."""

    def __init__(self, journal: list[dict] | None = None):
        self.updates: dict[int, list[list[str]]] = {}
        """By step: ids of events. Those that were learned together are one list."""
        for row in journal or []:
            if row["event"] == "reward":
                self.updates.setdefault(row["step"], []).append(row["consumed"])

    @property
    def last_step(self) -> int:
        """The last step that has votes to learn once more; 0 if there is none."""
        return max(self.updates, default=0)

    def has_more(self, step: int) -> bool:
        """Whether a step has votes left that it has not learned once more."""
        return bool(self.updates.get(step))

    def count(self, step: int) -> int:
        """Number of events that a step has left to learn once more."""
        return sum(map(len, self.updates.get(step, [])))

    def next_ids(self, step: int, *, at_once: bool) -> list[str] | None:
        """Ids of the events that a repeated step learns from next; None of a step that is new.

        A labeler that answers `at_once` gives all votes of a step together.
        """
        if not 0 < step <= self.last_step:
            return None
        updates = self.updates.get(step, [])
        if not at_once:
            return updates.pop(0) if updates else []
        ids: list[str] = []
        for update in updates:
            ids += update
        return ids
