"""Exports that the page has ordered: the command line in a process of its own, one at a time, which goes on without the page."""

import os
import re
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil

from playground.server import text
from playground.workspace import HUB_ID, NAME, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json, write_json
from rlhf_engine.runs.folder import is_alive, process_start

LOG, MADE = "exports/.log", "exports/.made.json"
"""In the workspace: what the last export has printed, and how it stands."""
PACKAGE = Path(__file__).resolve().parents[2]
LONGEST = 2000
"""Bytes of the log's end in which its last line is looked for."""


class Exports:
    """Safe to use from any thread. Only an owner gets anything out of it, or done by it."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.folder = workspace, workspace.home / "exports"
        self._starting = threading.Lock()

    def start(self, pick: str, *, merge: bool, push: str = "", public: bool = False) -> str:
        """Export a choice of the chat into a new folder of exports/; returns its name. Raises UserError for a visitor, too."""
        self.workspace.access.owners_only()
        model, adapter = self.workspace.adapter(str(pick or ""))
        if push and not HUB_ID.fullmatch(push):
            raise UserError(text.NO_HUB_NAME.format(name=push))
        with self._starting:
            if self._told().get("state") == "running":
                raise UserError(text.EXPORT_BUSY)
            name = self._new_name(pick, merge)
            flags = [f"--model={model}", f"--adapter={adapter}", f"--output={self.folder / name}", *(["--merge"] if merge else []),
                     *([f"--push={push}"] if push else []), *(["--public"] if push and public else [])]
            process = self._spawn(flags)
            told = {"name": name, "merge": merge, "state": "running", "pid": process.pid, "born": process_start(process.pid)}
            write_json(self.workspace.home / MADE, told)
        threading.Thread(target=self._wait, args=(process, told), daemon=True).start()
        return name

    def look(self) -> dict:
        """How the last export stands, for an owner: `name`, `merge`, `state` (running, done, failed), `said` (its last line). Else {}."""
        if not self.workspace.access.owner() or not (told := self._told()):
            return {}
        there = (self.folder / told["name"] / "README.md").is_file()
        return {"said": last_line(self.workspace.home / LOG), "there": there} | told

    def _told(self) -> dict:
        """The last export, set right where its process has ended while nobody waited for it."""
        try:
            told = read_json(self.workspace.home / MADE)
        except ValueError:
            told = None
        if not isinstance(told, dict) or not NAME.fullmatch(str(told.get("name"))) or not {"state", "pid", "born", "merge"} <= set(told):
            return {}
        if told["state"] == "running" and not is_alive(told["pid"], told["born"]):
            told["state"] = "done" if (self.folder / told["name"]).is_dir() else "failed"
        return told

    def _new_name(self, pick: str, merge: bool) -> str:
        name, number = pick.replace("@", "-") + ("-merged" if merge else ""), 1
        while (self.folder / (found := name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        return found

    def _spawn(self, flags: list[str]) -> subprocess.Popen:
        """Without a GPU, which may be training; after all else that wants the processor; and out of reach of the page's Ctrl-C."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        with open(self.workspace.home / LOG, "wb") as log:
            process = subprocess.Popen([sys.executable, "-P", "-m", "rlhf_engine", "export", *flags], stdin=subprocess.DEVNULL, stdout=log,
                                       stderr=log, start_new_session=True, env=environment)
        with suppress(psutil.Error):  # it has ended, or the system knows no priorities
            psutil.Process(process.pid).nice(10 if os.name == "posix" else psutil.BELOW_NORMAL_PRIORITY_CLASS)
        return process

    def _wait(self, process: subprocess.Popen, told: dict) -> None:
        code = process.wait()
        said = text.TAKE_ENDED if code < 0 else last_line(self.workspace.home / LOG)
        with suppress(OSError):  # a full disk: then it is told by what stands in the folder
            write_json(self.workspace.home / MADE, told | {"state": "failed" if code else "done", "said": said})


def last_line(log: Path) -> str:
    """What the command said last, without the word `error:` before it."""
    try:
        log_text = log.read_bytes()[-LONGEST:].decode(errors="replace")
    except OSError:
        return ""
    return next((line.strip().removeprefix("error: ") for line in reversed(log_text.splitlines()) if line.strip()), "")


def how_to_load(folder: Path) -> list[str]:
    """The pieces of code of an export's card, with the folder's own name in them."""
    try:
        readme = (folder / "README.md").read_text(encoding="utf-8")
    except OSError:
        return []
    return [code.strip().replace("THIS-FOLDER", str(folder)) for code in re.findall(r"^```\w*\n(.*?)^```", readme, re.DOTALL | re.MULTILINE)]
