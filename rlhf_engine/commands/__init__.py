"""The commands that are no stages. Each is a module with `HELP`, `add_arguments` and `run`; none imports torch."""

from rlhf_engine.arguments import Command
from rlhf_engine.commands import (
    agreement,
    best_of,
    chat,
    evaluate,
    export,
    leaderboard,
    overoptimisation,
    report,
    shift,
    tax,
)

COMMANDS: dict[str, Command] = {
    "chat": chat,
    "evaluate": evaluate,
    "best-of": best_of,
    "leaderboard": leaderboard,
    "shift": shift,
    "agreement": agreement,
    "tax": tax,
    "overoptimisation": overoptimisation,
    "report": report,
    "export": export,
}
"""By the name that is typed, in the order of the help."""
