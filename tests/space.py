"""A Hugging Face Space on this machine: files of git, packages of requirements.txt, the variables that a Space sets."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import httpx
import psutil
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PORT = 7860
AUTHOR, NAME = "somebody", "playground"
SET = {
    "SYSTEM": "spaces", "SPACE_ID": f"{AUTHOR}/{NAME}", "SPACE_AUTHOR_NAME": AUTHOR, "SPACE_REPO_NAME": NAME,
    "SPACE_TITLE": "RLHF Playground", "SPACE_HOST": f"{AUTHOR}-{NAME}.hf.space", "SPACE_CREATOR_USER_ID": "0" * 24,
    "CPU_CORES": "2", "MEMORY": "16Gi", "ACCELERATOR": "none",
    "GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_NUM_PORTS": "1", "GRADIO_ALLOW_FLAGGING": "never",
    "GRADIO_THEME": "huggingface", "PYTHONUNBUFFERED": "1",
    # `hf_oauth: true` adds these.
    "OAUTH_CLIENT_ID": "client", "OAUTH_CLIENT_SECRET": "secret", "OAUTH_SCOPES": "openid profile",
    "OPENID_PROVIDER_URL": "https://huggingface.co",
}
"""What a Space sets. It sets no PLAYGROUND_HOME: the workspace is a folder beside app.py. It sets no port either:
Gradio takes 7860."""
FOREIGN = ("PYTHON", "VIRTUAL_ENV", "PLAYGROUND_", "GRADIO_", "SPACE_", "OAUTH_", "HF_", "PYTEST_")
"""Variables that begin like this say something about this machine. A Space does not have them."""
TAKEN = "Cannot find empty port"
"""What Gradio says where another program has the port."""
PATIENCE = 600
"""Seconds after which a wait gives up. They only end a wait that would have no end."""


# -- the files -------------------------------------------------------------------------------------------------------

def tracked() -> set[str] | None:
    """The files that git knows, or None where there is no git."""
    try:
        said = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return set(filter(None, said.split("\0")))


def check_out(folder: Path) -> None:
    """Git itself writes its index to `folder`. A file that nobody has added to git cannot get there."""
    subprocess.run(["git", "checkout-index", "--all", f"--prefix={folder}/"], cwd=ROOT, check=True)


# -- the packages ----------------------------------------------------------------------------------------------------

def requirements(file: str) -> list[Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def needed(file: str) -> set[str]:
    """The packages that pip installs for a file of requirements, as the installed packages tell it."""
    found, todo = set(), [(requirement, "") for requirement in requirements(file)]
    while todo:
        requirement, of_extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": of_extra}):
            continue
        for extra in {"", *requirement.extras}:
            if (name, extra) not in found:
                found.add((name, extra))
                todo += [(Requirement(line), extra) for line in distribution(name).requires or ()]
    return {name for name, _ in found}


def installed(python: Path) -> set[str]:
    """The packages that an interpreter has. pip and setuptools come with every environment and do not count."""
    code = "import importlib.metadata as m; print(*(d.name for d in m.distributions()), sep='\\n')"
    said = subprocess.run([python, "-I", "-c", code], capture_output=True, check=True, text=True).stdout
    return {canonicalize_name(name) for name in said.split()} - {"pip", "setuptools"}


def link_environment(folder: Path) -> Path:
    """An environment of the packages that requirements.txt needs, and of no others. Returns its interpreter.

    The packages are links to those that the tests run with. So nothing is downloaded, and it takes a second. Raises
    FileNotFoundError where a package does not list its files.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [packages] = (folder / "lib").glob("python*/site-packages")
    for found in map(distribution, sorted(needed("requirements.txt"))):
        record = found.read_text("RECORD")
        if record is None:
            raise FileNotFoundError(f"{found.name} is installed without a list of its files")
        tops = {line.split("/")[0] if "/" in line else line.split(",")[0] for line in record.splitlines()}
        for top in tops - {"..", "__pycache__", ""}:
            if not (packages / top).exists():
                (packages / top).symlink_to(found.locate_file(top))
    return folder / "bin" / "python"


# -- the app ---------------------------------------------------------------------------------------------------------

def ports() -> Iterator[int]:
    """7860, as on a Space, unless tests run side by side and may take it. Then any that is free, for if it is taken."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield PORT
    for _ in range(3):
        with socket.socket() as tried:
            tried.bind(("0.0.0.0", 0))
            port = tried.getsockname()[1]
        yield port


def environment(python: Path, home: Path, port: int) -> dict[str, str]:
    """The variables of a Space. It names a port only where that is not the usual one."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    named = {} if port == PORT else {"GRADIO_SERVER_PORT": str(port)}
    return kept | SET | named | {"HOME": str(home), "PATH": os.pathsep.join([str(python.parent), os.defpath])}


class Space:
    """app.py, started as a Space starts it, in a folder that holds the files of git."""

    def __init__(self, folder: Path, python: Path):
        self.folder, self.python = folder, python
        self.log, self.home = folder.parent / "log", folder.parent / "home"
        self.home.mkdir()

    def start(self) -> None:
        """Start the app and wait until the page answers. If it ends or never answers, fail with its output."""
        for self.port in ports():
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    [self.python, "app.py"], cwd=self.folder, env=environment(self.python, self.home, self.port),
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
            if self._comes_up():
                return
            if TAKEN not in self.log.read_text():
                break
        raise AssertionError(f"the app does not answer:\n{self.log.read_text()}")

    def _comes_up(self) -> bool:
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            try:  # first of all it is this app, and no other, that has the port
                if self.listens() and httpx.get(self.url, timeout=60).is_success:
                    return True
            except (httpx.HTTPError, psutil.Error):
                pass
            time.sleep(0.2)
        return False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def listens(self) -> bool:
        """Whether the app has its port, at every address of the machine."""
        sockets = psutil.Process(self.process.pid).net_connections("tcp")
        return ("0.0.0.0", self.port) in {one.laddr for one in sockets if one.status == psutil.CONN_LISTEN}

    def running(self) -> list[psutil.Process]:
        """The app and its worker: what works in the folder, even if its parent is gone."""
        return [p for p in psutil.process_iter(["cwd"]) if p.info["cwd"] == str(self.folder)]

    def stop(self) -> list[str]:
        """Send SIGTERM, as a Space that stops does. Returns the processes that did not end by themselves; they are killed."""
        running = self.running()
        if self.process.poll() is None:
            self.process.terminate()
        _, left = psutil.wait_procs(running, timeout=PATIENCE / 5)
        names = []
        for process in {*left, *self.running()}:
            if process.status() != psutil.STATUS_ZOMBIE:
                names.append(f"{process.pid} {process.status()}: {' '.join(process.cmdline())}")
                process.kill()
        self.process.wait()
        return names
