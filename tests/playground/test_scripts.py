"""JavaScript as files: each is used, and settings reach it as JSON."""

import json

from playground.scripts import FOLDER, function_from, read_script, run_all
from tests.playground.conftest import EVIL

NAMES = sorted(path.stem for path in FOLDER.glob("*.js"))


def test_settings_are_json_that_cannot_end_a_script():
    source = function_from("select_tab", tab=f"'{EVIL}")
    assert source.startswith(f"({read_script('select_tab')})(") and "<" not in source.removeprefix(f"({read_script('select_tab')})")
    assert json.loads(source.rpartition(")(")[2].removesuffix(")")) == {"tab": f"'{EVIL}"}


def test_several_files_are_one_function():
    source = run_all("poll", "double_click")
    assert source.startswith("() => {") and read_script("poll") in source and read_script("double_click") in source


def test_every_file_is_used_and_python_holds_no_script():
    sources = {path: path.read_text() for path in FOLDER.parents[1].joinpath("playground").rglob("*.py")}
    for name in NAMES:
        assert any(f'"{name}"' in source for source in sources.values()), name
    assert [path.name for path, source in sources.items() if "addEventListener" in source] == []
