"""A cache of its own for each session, so that a file is converted once, and none of the user's cache is touched."""

import pytest

from rlhf_engine.gguf.cache import VARIABLE


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf-cache")


@pytest.fixture(autouse=True)
def cache(session_cache, monkeypatch):
    """The folder of the cache."""
    monkeypatch.setenv(VARIABLE, str(session_cache))
    return session_cache
