"""What the tests of the Chat page share."""

import pytest

from rlhf_engine.config import TeachConfig
from rlhf_engine.feedback.store import Store
from tests.playground.conftest import write_run


@pytest.fixture
def run(home):
    """A run that asks people, with a checkpoint, whose policy can be asked live."""
    return write_run(home, "taste", TeachConfig(labeler="person"), state="running")


@pytest.fixture
def store(home) -> Store:
    return Store(home / "feedback.sqlite")
