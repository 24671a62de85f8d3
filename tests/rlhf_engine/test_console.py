"""The console belongs to our own lines: libraries print no warnings there, and fetch no code."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import rlhf_engine.model  # noqa: F401  # which takes the package `kernels` away
from rlhf_engine.console import VERBOSITY, quiet_libraries

ROOT = Path(__file__).resolve().parents[2]


def test_warnings_stay_off_and_errors_do_not(capfd, monkeypatch):
    for name in VERBOSITY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_VERBOSITY", "info")
    monkeypatch.setattr(sys, "warnoptions", [])
    level = logging.lastResort.level
    with warnings.catch_warnings():
        try:
            quiet_libraries()
            warnings.warn("old", FutureWarning, stacklevel=1)
            library = logging.Logger("some library")
            library.warning("a warning")
            library.error("an error")
        finally:
            logging.lastResort.setLevel(level)
    assert capfd.readouterr() == ("", "an error\n")
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "error" and os.environ["HF_HUB_VERBOSITY"] == "info"


def test_a_shell_shows_our_lines_alone_and_nothing_is_fetched_from_the_hub(tiny_gpt2, tmp_path):
    """GPT-2 makes transformers warn of an argument, NF4 makes bitsandbytes look for `kernels`, which is there here."""
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\ndef get_kernel(*args, **options): raise SystemExit\n")
    (tmp_path / "kernels-0.18.2.dist-info").mkdir()
    (tmp_path / "kernels-0.18.2.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: kernels\nVersion: 0.18.2\n")
    environment = {name: value for name, value in os.environ.items() if name not in (*VERBOSITY, "PYTHONWARNINGS")}
    ran = subprocess.run([sys.executable, "-m", "rlhf_engine", "chat", "--model", str(tiny_gpt2), "--dtype", "nf4", "--prompt", "Once",
                          "--max-new-tokens", "3"], cwd=tmp_path, capture_output=True, text=True, check=False,
                         env=environment | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"})
    assert ran.returncode == 0 and ran.stderr == "" and ran.stdout
    assert not (tmp_path / "imported").exists()
