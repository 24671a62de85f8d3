"""How much of the model's time chats get between two micro-batches of a run."""

from types import SimpleNamespace

import pytest

from rlhf_engine.worker import chats as module
from rlhf_engine.worker.chats import LONGEST_TURN, Chats


@pytest.fixture
def clock(monkeypatch) -> SimpleNamespace:
    """A clock that a test moves by hand, in seconds."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    return clock


class OneChat(Chats):
    """A chat of 1000 tokens, each of which takes a hundredth of a second; no model."""

    def __init__(self, clock: SimpleNamespace, *, live=True):
        control = SimpleNamespace(paused=False, target="run")
        server = SimpleNamespace(loading=False, closing=False, chats=[], live=SimpleNamespace(control=control) if live else None)
        super().__init__(SimpleNamespace(server=server, backbone=None))
        self.clock, self.tokens, self.active = clock, 0, [SimpleNamespace()]

    def _admit(self) -> None:
        """Nobody else waits."""

    def _advance(self, chat) -> None:
        self.clock.now += 0.01
        self.tokens += 1
        if self.tokens == 1000:
            self.active.clear()

    def after(self, seconds: float) -> int:
        """The tokens that it gets after so many seconds of training."""
        self.clock.now += seconds
        before = self.tokens
        self.advance_all()
        return self.tokens - before


def test_chats_get_as_much_time_as_the_run_took(clock):
    chat = OneChat(clock)
    assert chat.after(0.0) == 1, "between the tokens of a rollout it is one"
    assert chat.after(0.005) == 1 and chat.after(0.5) in (50, 51)
    assert chat.after(600.0) in (int(100 * LONGEST_TURN), int(100 * LONGEST_TURN) + 1), "an order to the run does not wait for longer"
    chat.active.clear()
    assert chat.after(3.0) == 0


def test_time_without_a_chat_is_not_saved_up(clock):
    chat = OneChat(clock)
    waiting, chat.active = chat.active, []
    for _ in range(3):
        chat.after(1.0)
    chat.active = waiting
    assert chat.after(0.1) in (10, 11)


def test_without_a_run_chats_advance_token_by_token(clock):
    assert OneChat(clock, live=False).after(5.0) == 1
