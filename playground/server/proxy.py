"""The proxy that the environment names (HTTP_PROXY), which must not stand between the page and this machine."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

LOOPBACK = ("localhost", "127.0.0.1", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def bypass_proxy(*hosts: str) -> None:
    """Have HTTP libraries reach this machine, and `hosts`, without a proxy.

    Both spellings of the variable are set, because libraries read one or the other. Brackets around an IPv6 address,
    which some write, would be an invalid address to httpx.
    """
    known = [entry for name in ("no_proxy", "NO_PROXY") for entry in os.environ.get(name, "").split(",")]
    entries = dict.fromkeys(entry.strip().strip("[]") for entry in (*known, *LOOPBACK, *hosts))
    entries.pop("", None)
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = "*" if "*" in entries else ",".join(entries)


@contextmanager
def without_socks() -> Iterator[None]:
    """Leave SOCKS proxies out of the environment where httpx cannot use one: it would refuse any request at all."""
    hidden = {}
    if importlib.util.find_spec("socksio") is None:
        for name in (*PROXIES, *(proxy.upper() for proxy in PROXIES)):
            if os.environ.get(name, "").lower().startswith("socks"):
                hidden[name] = os.environ.pop(name)
    try:
        yield
    finally:
        os.environ.update(hidden)
