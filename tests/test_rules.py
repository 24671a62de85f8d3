"""tests/RULES.md names tests that exist."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_every_test_that_the_rules_name_exists():
    named = re.findall(r"`([\w/]*test_\w+)::(test_\w+)`", (HERE / "RULES.md").read_text())
    assert len(named) > 50
    for file, name in named:
        assert f"def {name}(" in (HERE / "rlhf_engine" / f"{file}.py").read_text(), f"{file}::{name}"
