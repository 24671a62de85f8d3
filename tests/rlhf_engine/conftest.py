"""Fixtures for the command line: input files, and a call that gives exit code, stdout and stderr."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rlhf_engine.cli import main
from rlhf_engine.teach import outcome
from tests.conftest import sentences

SCORE = '''
def length(prompt, response):
    return -abs(len(response) - 20) / 10

def vowels(prompt, response):
    return sum(response.count(v) for v in "aeiou") / (1 + len(response))
'''


@pytest.fixture(scope="package", autouse=True)
def short_outcomes() -> Iterator[int]:
    """Runs of `teach` in this process are measured on few samples at their end. Gives how many there are otherwise."""
    usual = outcome.SAMPLES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outcome, "SAMPLES", 32)
        yield usual


def write_rows(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
    """A folder with demos.jsonl, pairs.jsonl, prompts.jsonl and score.py (functions `length` and `vowels`)."""
    folder, texts = tmp_path_factory.mktemp("inputs"), sentences(26, seed=7)
    write_rows(folder / "demos.jsonl", [{"prompt": t[:20], "completion": t[20:]} for t in texts])
    write_rows(folder / "pairs.jsonl", [{"prompt": t[:15], "chosen": t[15:40] + " happy", "rejected": t[15:30] + " sad"} for t in texts])
    write_rows(folder / "prompts.jsonl", [{"prompt": t[:15]} for t in texts])
    (folder / "score.py").write_text(SCORE)
    return folder


@pytest.fixture
def cli(capfd) -> Callable[..., tuple[int, str, str]]:
    """call(*args) -> (exit code, stdout, stderr) of the command line, run in this process."""
    def call(*args):
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        capfd.readouterr()
        try:
            code = main([str(a) for a in args])
        except SystemExit as stop:  # argparse after --help
            code = stop.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return code, *capfd.readouterr()
    return call
