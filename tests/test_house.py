"""The rules of the house: who imports whom, which rooms import no torch, how large a folder gets, and the public names."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import rlhf_engine

ROOT = Path(__file__).resolve().parents[1]
ENGINE = {
    "errors": 0, "console": 1, "files": 1, "spelling": 1, "yaml_files": 1, "config": 2, "measures": 2, "stages": 3, "arguments": 4, "gguf": 3, "runs": 4, "data": 5, "feedback": 6,
    "losses": 6, "model": 7, "rollout": 8, "trainers": 9, "export": 9, "evaluation": 10, "teach": 11, "build": 12, "loop": 12,
    "studies": 13, "commands": 14, "worker": 15, "cli": 15, "__main__": 16,
}
"""Rooms of the engine. A room imports itself and rooms with a smaller number."""
PAGE = {
    "text": 0, "server.text": 0, "server.access": 1, "workspace": 2, "run_files": 2, "theme": 2, "machine": 2, "model_files": 3, "scripts": 2, "run_commands": 3, "page_lock": 2, "vote_history": 2, "voting": 3,
    "components": 4, "server": 5, "pages": 6, "notebook": 6, "app": 7,
}
"""Rooms of the page, likewise; a longer name wins. Pages do not import one another."""
LATE = {("rlhf_engine.feedback.llm_judge", "rlhf_engine.model"), ("rlhf_engine.worker.__main__", "rlhf_engine.worker")}
"""Imports inside of a function that may go up: a judge on this machine loads a model when it is asked for."""
TORCH_FREE = ("errors", "console", "spelling", "arguments", "files", "config", "measures", "stages", "gguf", "runs", "data", "feedback", "evaluation.intervals", "evaluation.leaderboard", "commands", "cli", "worker.client", "worker.server")
HEAVY = ("torch", "transformers", "peft", "datasets", "gradio", "bitsandbytes")
MOST_FILES = 14


def modules(package: str) -> list[tuple[str, Path]]:
    files = sorted((ROOT / package).rglob("*.py"))
    return [(".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), file) for file in files]


def imports_of(file: Path) -> list[tuple[str, int, bool]]:
    """(imported module, line, whether Python runs it late or never) for each import of ours.

    Late are those inside of functions; those under TYPE_CHECKING are only for the type checker.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
              or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    late = {id(inner) for block in blocks for inner in ast.walk(block)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in ("rlhf_engine", "playground"):
            names = [node.module]
            if node.module in ("rlhf_engine", "playground") or (ROOT / node.module.replace(".", "/")).is_dir():
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name, node.lineno, id(node) in late) for name in names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in ("rlhf_engine", "playground")]
            found += [(name, node.lineno, id(node) in late) for name in names]
    return found


def room(module: str) -> tuple[str, int] | None:
    """(name, number) of the room of a module; None for a package itself."""
    package, _, rest = module.partition(".")
    table = ENGINE if package == "rlhf_engine" else PAGE
    names = [name for name in table if rest == name or rest.startswith(f"{name}.")]
    if not names:
        return None
    name = max(names, key=len)
    return name, table[name]


def test_every_module_has_a_room():
    lost = [name for package in ("rlhf_engine", "playground") for name, _ in modules(package) if "." in name and room(name) is None]
    assert lost == [], "give these modules a number in this test's tables"


@pytest.mark.parametrize("package", ["rlhf_engine", "playground"])
def test_rooms_import_only_rooms_before_them(package):
    wrong = []
    for name, file in modules(package):
        here = room(name)
        if here is None:
            continue
        for target, line, late in imports_of(file):
            there = room(target)
            if late and any(name == module and target.startswith(allowed) for module, allowed in LATE):
                continue
            upwards = there is not None and there[0] != here[0] and there[1] >= here[1]
            from_engine = package == "rlhf_engine" and target.startswith("playground")
            if from_engine or (upwards and target.split(".")[0] == package):
                wrong.append(f"{file.relative_to(ROOT)}:{line}: {name} imports {target}")
    assert wrong == []


def test_pages_import_no_other_page():
    wrong = []
    for name, file in modules("playground.pages".replace(".", "/")):
        page = name.split(".")[2:3]
        for target, line, _ in imports_of(file):
            other = target.split(".")
            if other[:2] == ["playground", "pages"] and page and other[2:3] != page:
                wrong.append(f"{file.relative_to(ROOT)}:{line}: imports {target}")
    assert wrong == []


def test_modules_import_one_another_in_no_circle():
    graph = {}
    for package in ("rlhf_engine", "playground"):
        for name, file in modules(package):
            if name != package:
                graph[name] = [target for target, _, late in imports_of(file) if not late]
    names = set(graph)
    graph = {name: {target for target in targets if target in names} for name, targets in graph.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name):], name))
        if name not in done:
            for target in sorted(graph[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_the_rooms_below_the_model_import_no_torch():
    """All modules of these rooms, in one process; the page stands on them, and so do the commands that are refused at once."""
    names = [name for name, _ in modules("rlhf_engine") for free in TORCH_FREE
             if name == f"rlhf_engine.{free}" or name.startswith(f"rlhf_engine.{free}.")]
    assert len(names) > 15
    code = (f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
            f"    heavy = [module for module in {HEAVY!r} if module in sys.modules]\n    assert not heavy, (name, heavy)")
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("package", ["rlhf_engine", "playground", "tests", "benchmarks", "assets/recipe"])
def test_no_folder_has_more_files_than_a_stranger_can_scan(package):
    folders = {file.parent for file in (ROOT / package).rglob("*.py")}
    crowded = {str(folder.relative_to(ROOT)): count for folder in folders if (count := len(list(folder.glob("*.py")))) > MOST_FILES}
    assert crowded == {}


# -- the public names -------------------------------------------------------------------------------------------------

def test_importing_the_package_imports_no_torch_and_its_names_come_when_they_are_used():
    code = ("import sys, rlhf_engine; assert 'torch' not in sys.modules; from rlhf_engine import make_config; "
            "assert 'torch' not in sys.modules; from rlhf_engine import *; assert PPO and 'torch' in sys.modules")
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_public_names_have_a_docstring_and_are_no_sub_package():
    folders = {module.name for module in pkgutil.iter_modules(rlhf_engine.__path__)}
    assert not folders & set(rlhf_engine.__all__)
    for name in rlhf_engine.__all__:
        thing = getattr(rlhf_engine, name)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            assert inspect.getdoc(thing), name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        rlhf_engine.nonsense  # noqa: B018


def test_the_type_checker_sees_the_same_public_names():
    tree = ast.parse((ROOT / "rlhf_engine" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname or alias.name: node.module for node in block.body for alias in node.names}
    assert seen == {name: f"rlhf_engine.{module}" for name, module in rlhf_engine.MODULE_OF.items()}


def test_the_readme_lists_the_public_names():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in rlhf_engine.__all__ if f"`{name}`" not in readme] == []
