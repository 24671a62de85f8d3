"""Files of ours that somebody, or a broken disk, has changed: what reading them raises becomes one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from rlhf_engine.errors import UserError, first_line, short_repr
from rlhf_engine.runs.folder import Run

DAMAGE = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, OSError,
          SafetensorError)
"""What Python and torch raise for a file that is gone or holds something else than was written."""


@contextmanager
def explain_damage(path: Path, mend: str) -> Iterator[None]:
    """Read files of `path` in this block. What they raise becomes a UserError that names `path` and says `mend`."""
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        if "memory" in str(error):  # which says nothing about the files
            raise
        raise UserError(f"{path} is damaged ({type(error).__name__}: {first_line(error)}); {mend}") from None


def check_journal(run: Run) -> None:
    """Raises UserError for a row of the journal that a run could not repeat."""
    for row in run.journal():
        step = row.get("step", 0)
        if not isinstance(step, int | float) or isinstance(step, bool) or not isinstance(row.get("event"), str):
            raise UserError(f"{run.path / 'journal.jsonl'} is damaged, at {short_repr(row)}; take that line out, or "
                            "start a new run")
