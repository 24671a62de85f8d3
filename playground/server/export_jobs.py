"""Exports that the page has ordered: the command line in a process of its own, which goes on without the page."""

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
from rlhf_engine.export.model_card import BASE_FOLDER
from rlhf_engine.export.report_link import read_report
from rlhf_engine.files import PROJECT, read_json_or_none, write_json
from rlhf_engine.runs.folder import is_alive, process_start
from rlhf_engine.runs.resolve import resolve_adapter

LOG, MADE = "exports/.log", "exports/.made.json"
"""In the workspace: what the last export has printed, and how it stands."""
LOG_TAIL = 2000
"""Bytes at the end of the log in which its last line is searched."""


class Exports:
    """The exports of a workspace. Safe to use from any thread. Only an owner may order one, or see how it stands."""

    def __init__(self, workspace: Workspace):
        self.workspace, self.folder = workspace, workspace.home / "exports"
        self._starting = threading.Lock()

    def start(self, pick: str, *, merge: bool, push: str = "", public: bool = False) -> str:
        """Export a choice of the chat into a new folder of exports/; returns the folder's name.

        Raises UserError, also for a visitor.
        """
        self.workspace.access.owners_only()
        model, adapter = self.workspace.adapter(str(pick or ""))
        if push and not HUB_ID.fullmatch(push):
            raise UserError(text.NO_HUB_NAME.format(name=push))
        with self._starting:
            if self._last_job().get("state") == "running":
                raise UserError(text.EXPORT_BUSY)
            name = self._new_name(pick, merge)
            flags = [f"--model={model}", f"--adapter={adapter}", f"--output={self.folder / name}"]
            if report := self._report(pick, adapter):
                flags.append(f"--report={report}")
            if merge:
                flags.append("--merge")
            if push:
                flags.append(f"--push={push}")
            if push and public:
                flags.append("--public")
            process = self._spawn(flags)
            job = {"name": name, "merge": merge, "state": "running", "pid": process.pid,
                   "born": process_start(process.pid)}
            write_json(self.workspace.home / MADE, job)
        threading.Thread(target=self._wait, args=(process, job), daemon=True).start()
        return name

    def _report(self, pick: str, adapter: str) -> Path | None:
        """The folder of a report about exactly this adapter, if the workspace has one."""
        report = self.workspace.home / "reports" / Path(pick.replace("@", "-at-")).name
        try:
            folder = resolve_adapter(adapter, "bundled")
            if folder:
                read_report(report, folder)
            return report if folder else None
        except UserError:
            return None

    def look(self) -> dict:
        """How the last export stands; empty for a visitor, and if there was none.

        `name`, `merge`, `state` (running, done, failed), `said` (its last line), `there` (its folder is complete).
        """
        job = self._last_job() if self.workspace.access.owner() else {}
        if not job:
            return {}
        complete = (self.folder / job["name"] / "README.md").is_file()
        return {"said": last_line(self.workspace.home / LOG), "there": complete, **job}

    def _last_job(self) -> dict:
        """What is known of the last export.

        If its process has ended while the page was down, its folder says how it ended.
        """
        job = read_json_or_none(self.workspace.home / MADE)
        if not isinstance(job, dict) or not {"name", "state", "pid", "born", "merge"} <= set(job):
            return {}
        if not NAME.fullmatch(str(job["name"])):
            return {}
        if job["state"] == "running" and not is_alive(job["pid"], job["born"]):
            job["state"] = "done" if (self.folder / job["name"]).is_dir() else "failed"
        return job

    def _new_name(self, pick: str, merge: bool) -> str:
        base = pick.replace("@", "-") + ("-merged" if merge else "")
        name, number = base, 1
        while (self.folder / name).exists():
            number += 1
            name = f"{base}-{number}"
        return name

    def _spawn(self, flags: list[str]) -> subprocess.Popen:
        """Start the command without the GPU, which may be training, at a low priority, and out of reach of Ctrl-C."""
        self.folder.mkdir(parents=True, exist_ok=True)
        python_path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": python_path, "CUDA_VISIBLE_DEVICES": "",
                       "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        command = [sys.executable, "-P", "-m", "rlhf_engine", "export", *flags]
        with open(self.workspace.home / LOG, "wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
                                       start_new_session=True)
        with suppress(psutil.Error):  # it has ended, or the system knows no priorities
            low_priority = 10 if os.name == "posix" else psutil.BELOW_NORMAL_PRIORITY_CLASS
            psutil.Process(process.pid).nice(low_priority)
        return process

    def _wait(self, process: subprocess.Popen, job: dict) -> None:
        code = process.wait()
        message = text.TAKE_ENDED if code < 0 else last_line(self.workspace.home / LOG)
        with suppress(OSError):  # a full disk; then the folder says how it ended
            write_json(self.workspace.home / MADE, {**job, "state": "failed" if code else "done", "said": message})


def last_line(log: Path) -> str:
    """The last line that the command printed, without a leading `error:`."""
    try:
        tail = log.read_bytes()[-LOG_TAIL:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else ""


def how_to_load(folder: Path) -> list[str]:
    """The pieces of code in an export's model card, with the folders of this machine in them."""
    try:
        card = (folder / "README.md").read_text(encoding="utf-8")
    except OSError:
        return []
    config = read_json_or_none(folder / "adapter_config.json")
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    folders = {"THIS-FOLDER": str(folder), BASE_FOLDER: str(base or BASE_FOLDER)}
    codes = [code.strip() for code in re.findall(r"^```\w*\n(.*?)^```", card, re.DOTALL | re.MULTILINE)]
    for word, path in folders.items():
        codes = [code.replace(word, path) for code in codes]
    return codes
