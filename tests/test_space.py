"""A Hugging Face Space: files of git alone, packages of requirements.txt alone, app.py, and a visitor who talks to it.

.ci/run installs requirements.txt, and nothing else, into an environment; CLEAN_PYTHON names its interpreter. Without
that variable the environment is put together from the packages that are installed already.
"""

import os
import subprocess
import tomllib
from pathlib import Path

import httpx
import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests import space as spaces
from tests.playground.client import PatientClient

COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
QUESTION = [{"role": "user", "content": "Tell me a story about a dog."}]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment that has the packages of requirements.txt and no others."""
    if given := os.environ.get("CLEAN_PYTHON"):
        return Path(given)
    try:
        return spaces.link_environment(tmp_path_factory.mktemp("clean"))
    except OSError as error:
        pytest.skip(f"no clean environment: {error}")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    if spaces.tracked() is None:
        pytest.skip("the files of a Space are those of git, and this is no git checkout")
    spaces.check_out(folder := tmp_path_factory.mktemp("space") / "app")
    return folder


@pytest.fixture(scope="module")
def space(files, python):
    app = spaces.Space(files, python)
    try:
        app.start()
        yield app
    finally:
        left = app.stop()
    assert not left, f"did not end when the Space was stopped: {left}"


@pytest.fixture
def visitor(space) -> PatientClient:
    """Somebody whom the Space's proxy lets through, and who is not logged in."""
    return PatientClient(space.url, headers={"x-forwarded-for": "203.0.113.7"})


# -- what it is made of ----------------------------------------------------------------------------------------------

def front_matter() -> dict:
    return yaml.safe_load((spaces.ROOT / "README.md").read_text(encoding="utf-8").split("---\n")[1])


def test_the_readme_configures_what_the_project_requires():
    told, project = front_matter(), tomllib.loads((spaces.ROOT / "pyproject.toml").read_text())["project"]
    [gradio] = [r for r in spaces.requirements("requirements.txt") if r.name == "gradio"]
    assert told["sdk"] == "gradio" and gradio.specifier.contains(told["sdk_version"])
    assert isinstance(told["python_version"], str), "without quotes YAML reads 3.10 as 3.1"
    assert SpecifierSet(project["requires-python"]).contains(told["python_version"])
    assert told["license"] == project["license"].lower()
    assert told["hf_oauth"] is True, "without it nobody can log in, and the Space has no owner"
    assert (spaces.ROOT / told["app_file"]).is_file()
    assert {told["colorFrom"], told["colorTo"]} <= COLOURS and len(told["short_description"]) <= 60


def test_the_files_are_those_of_git_and_have_what_the_readme_names(tmp_path):
    if (tracked := spaces.tracked()) is None:
        pytest.skip("no git checkout")
    spaces.check_out(tmp_path)
    assert {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_symlink() or not file.is_dir()} == tracked
    assert {front_matter()["app_file"], "requirements.txt", "README.md"} <= tracked


def test_the_environment_has_what_requirements_txt_needs_and_nothing_else(python):
    needed, of_tests = spaces.needed("requirements.txt"), spaces.needed("tests/requirements.txt")
    assert spaces.installed(python) == needed - {"pip", "setuptools"}
    assert {"pytest", "playwright", "nbclient"} <= of_tests - needed
    modules = "pytest", "xdist", "playwright", "nbclient", "nbformat", "ipykernel", "playground", "rlhf_engine"
    code = f"from importlib.util import find_spec; print([name for name in {modules} if find_spec(name)])"
    assert subprocess.run([python, "-I", "-c", code], capture_output=True, check=True, text=True).stdout == "[]\n"


# -- what it does ----------------------------------------------------------------------------------------------------

def test_it_listens_to_everybody_and_gradio_knows_that_it_is_a_space(space):
    assert space.listens()
    config = httpx.get(f"{space.url}config").json()
    assert config["space_id"] == spaces.SET["SPACE_ID"] and config["title"] == front_matter()["title"]


def test_nothing_runs_yet_and_a_visitor_is_told(visitor):
    status = visitor.predict(run="", api_name="/status")
    assert (status["run"], status["state"], status["step"], status["metrics"]) == (None, "idle", 0, {})
    assert visitor.predict(run="", api_name="/checkpoints")["checkpoints"] == []
    query = visitor.predict(run="", api_name="/next_query")
    assert query["query_id"] == "" and query["message"]


def test_a_visitor_starts_nothing_and_brings_nothing_in(space, visitor):
    for stage, config in {"sft": {}, "reward": {}, "teach": {"labeler": "sentiment"}}.items():
        with pytest.raises(Exception, match="Only the owner"):
            visitor.predict(stage=stage, config=config, api_name="/start")
    with pytest.raises(Exception, match="Only the owner may open"):
        visitor.predict(adapters=["none"], messages=QUESTION, model="somebody/else", api_name="/chat")
    assert httpx.post(f"{space.url}gradio_api/upload", files={"files": ("a.jsonl", b"{}")}).status_code == 403
    runs = space.folder / "workspace" / "runs"
    assert visitor.predict(run="", api_name="/status")["run"] is None and not (runs.is_dir() and list(runs.iterdir()))


def test_a_chat_answers(visitor):
    adapters = ["none", "bundled"]
    *_, last = visitor.submit(adapters=adapters, messages=QUESTION, max_new_tokens=32, temperature=0,
                                api_name="/chat")
    assert len(last["responses"]) == len(adapters) and all(map(str.strip, last["responses"]))


def test_all_of_that_left_no_error_in_its_log(space):
    """But for one of Gradio's own. A Space also installs the package `spaces`; Gradio reloads changed code with it."""
    said = space.log.read_text()
    assert said.count("Traceback") == said.count("`spaces` package is required to run hot-reloading"), said
