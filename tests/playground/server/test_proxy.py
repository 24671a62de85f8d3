"""A proxy in the environment: the page starts, and asks itself without it."""

import os
import socket

import httpx
import pytest
from gradio import networking

from playground.app import Playground, options
from playground.server.proxy import bypass_proxy, without_socks
from tests.playground.conftest import FakeWorker

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
def proxy(monkeypatch) -> str:
    """The address of a proxy that is not there. The environment names none until a test says so."""
    for name in (*NAMES, *map(str.upper, NAMES)):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "")  # so that what is set below is undone
        monkeypatch.delenv(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("given", ["", "example.org", "localhost", "*", " a , ,b", "[::1],10.0.0.1"])
def test_what_is_named_already_is_kept(proxy, monkeypatch, given):
    monkeypatch.setenv("no_proxy", given)
    bypass_proxy("10.1.1.1")
    names = os.environ["no_proxy"].split(",")
    assert os.environ["NO_PROXY"] == os.environ["no_proxy"] and (names == ["*"] or {"localhost", "127.0.0.1", "10.1.1.1"} <= set(names))
    assert all(part.strip(" []") in names for part in given.split(",") if part.strip())
    httpx.Client().close()  # whatever was given, it is no invalid address to httpx


def test_socks_proxies_come_back(proxy, monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    with without_socks():
        httpx.Client().close()
    assert os.environ["ALL_PROXY"] == "socks5://127.0.0.1:9"


def check_that_it_starts(home) -> None:
    """Launch the page as a user does, and fetch it."""
    page = Playground(home, worker=FakeWorker())
    try:
        _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **options(page))
        with httpx.Client(trust_env=False) as client:
            assert client.get(url).status_code == 200
    finally:
        page.close(verbose=False)


def test_the_page_starts_behind_proxies_that_are_not_there(proxy, monkeypatch, home):
    monkeypatch.setenv("http_proxy", f"http://{proxy}")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
    monkeypatch.setenv("ALL_PROXY", f"socks5://{proxy}")
    check_that_it_starts(home)


def test_the_page_starts_on_a_machine_that_needs_long_for_the_first_page(monkeypatch, home):
    """Gradio gives its own page three seconds. A busy machine needs more, and said "localhost is not accessible"."""
    monkeypatch.setattr(networking, "url_ok", lambda url: False)
    check_that_it_starts(home)
