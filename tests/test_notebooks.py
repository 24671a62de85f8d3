"""Each notebook runs from top to bottom in a fresh kernel, with few steps on few rows, and is committed with its outputs."""

import ast
import base64
import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import playground.notebook
import rlhf_engine
from playground.notebook import You
from rlhf_engine.feedback.queries import Query

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLOTLY = "application/vnd.plotly.v1+json"
RUN_AGAIN = "execute it with assets/recipe/notebooks.py, which also draws the pictures"
MACHINE_PATH = re.compile(r"/(home|root|opt|tmp|usr|work|Users)/|[A-Za-z]:\\\\")
MOST_BYTES = 300_000
FEW = """
import rlhf_engine.teach.outcome

rlhf_engine.teach.outcome.SAMPLES = 16
steps, reward_steps, votes = 2, 2, 6


def with_few(function, few):
    return lambda *arguments, **settings: function(*arguments, **settings | few)


online = {"batch_size": 8, "reference_samples": 16, "max_new_tokens": 48}  # long enough for somebody to speak
fewer = {"SFTConfig": {"batch_size": 8}, "RewardConfig": {"batch_size": 8, "reference_samples": 16, "max_new_tokens": 24},
         "PPOConfig": online, "TeachConfig": online | {"candidates": 8, "votes_first": 4, "group_size": 2},
         "read_preferences": {"limit": 64}, "read_demonstrations": {"limit": 64}}
globals().update({name: with_few(globals()[name], few) for name, few in fewer.items() if name in globals()})
if "read_prompts" in globals():
    read_prompts = lambda data, limit=16, read=read_prompts: read(data, limit=min(limit, 16))
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_from_top_to_bottom(path, monkeypatch):
    monkeypatch.chdir(path.parent)  # where Jupyter starts a notebook
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1, "one cell, tagged `parameters`, holds the numbers of steps"
    cells[0].source += "\n\n" + FEW
    NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(path.parent)}}).execute()
    of_cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    assert all(sum(PLOTLY in o.get("data", {}) for o in outputs) <= 1 for outputs in of_cells)  # each drawn over the last
    outputs = [output for outputs in of_cells for output in outputs]
    figures = [o for o in outputs if PLOTLY in o.get("data", {})]
    assert figures and all(trace["x"] for f in figures[:1] for trace in f["data"][PLOTLY]["data"][:1])
    assert any(o.output_type == "stream" and o.name == "stdout" for o in outputs)
    assert not [o for o in outputs if o.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_explained(path):
    """It begins with words, and every code cell but the set-up stands under some."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds.count("markdown") * 2 >= kinds.count("code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_is_committed_as_it_came_out(path):
    """All cells in one go, from top to bottom, without errors or warnings, and nothing of the machine it ran on."""
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), RUN_AGAIN
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert not [o for o in outputs if MACHINE_PATH.search(json.dumps({**o, "data": without_pictures(o)}))]
    assert path.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_figure_has_a_picture_for_where_no_javascript_runs(path):
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    figures = [output.data for output in outputs if PLOTLY in output.get("data", {})]
    assert figures
    for data in figures:
        assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG"), RUN_AGAIN


def without_pictures(output) -> dict:
    """The data of an output, less what is binary."""
    return {kind: value for kind, value in output.get("data", {}).items() if not kind.startswith("image/")}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_uses_only_what_is_public_and_is_set_up_in_one_line(path):
    code = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert code[0].startswith('import sys; sys.path.append("..")') and len(code[0].splitlines()) == 1
    imports = [node for cell in code[1:] for node in ast.walk(ast.parse(cell)) if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = {}
    for node in imports:
        modules = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        if modules[0].split(".")[0] in ("rlhf_engine", "playground"):
            ours[modules[0]] = {alias.name for alias in node.names}
    assert ours.keys() == {"rlhf_engine", "playground.notebook"}
    assert ours["rlhf_engine"] <= set(rlhf_engine.__all__) and ours["playground.notebook"] <= set(playground.notebook.__all__)


def test_you_are_asked_until_the_answer_can_be_read(monkeypatch, capsys):
    said = iter(["5", "yes", " 3 ", "T"])
    monkeypatch.setattr("builtins.input", lambda question: next(said))
    you, query = You(), Query("q", "Once", ("a cat", "a dog", "an owl"), (0.0, 0.0, 0.0), 1, {})
    you.ask(query)
    you.ask(query)
    best, tie = you.new_events()
    assert (best.kind, best.value) == ("ranking", (2, 2, 1)) and (tie.kind, tie.value) == ("comparison", "tie")
    assert you.new_events() == [] and "> Once" in capsys.readouterr().out
