"""The notebooks with their outputs: each is executed, and each Plotly figure gets a picture beside it.

    python assets/recipe/notebooks.py [notebooks/05_same_votes_many_learners.ipynb ...]

The picture is what a reader sees where JavaScript does not run, on GitHub for example. Takes about a quarter of an hour
on two cores for all of them. Needs the packages of tests/requirements.txt and a Chromium on the PATH; whoever only
wants to run a notebook needs neither.
"""

import argparse
import base64
import io
import json
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from plotly.offline import get_plotlyjs

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.browser import browser_of

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
PLOTLY, PICTURE = "application/vnd.plotly.v1+json", "image/png"
WIDTH, HEIGHT, SCALE = 900, 450, 2
"""Size of a picture in pixels (the height, where a figure does not say its own), and pixels of the file for each."""
COLOURS = 64
"""Colours of the file, which is then a quarter as large."""
QUIET = "ignore:IProgress not found"
"""As PYTHONWARNINGS: where no widgets are installed, tqdm would warn about it, with a path of the machine."""
LANGUAGE = {"name": "python"}
"""What a notebook says of its language. Jupyter would add the version of Python that it happened to run on."""


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`, executed in a fresh kernel. Raises CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=1800, record_timing=False, resources={"metadata": {"path": path.parent}})
    client.execute()
    notebook.metadata.language_info = LANGUAGE
    return notebook


def add_pictures(notebook: nbformat.NotebookNode, page: Page) -> None:
    """Put a picture beside each Plotly figure in the outputs of a notebook."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        for output in cell.outputs:
            if PLOTLY in output.get("data", {}):
                output.data[PICTURE] = picture(output.data[PLOTLY], page)


def picture(figure: dict, page: Page) -> str:
    """A Plotly figure as a PNG in base64. `page` has Plotly's script."""
    size = {"width": WIDTH, "height": figure["layout"].get("height", HEIGHT), "scale": SCALE, "format": "png"}
    address = page.evaluate("([figure, size]) => Plotly.toImage(JSON.parse(figure), size)", [json.dumps(figure), size])
    drawn = Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    file = io.BytesIO()
    drawn.convert("RGB").quantize(COLOURS).save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, default=sorted(NOTEBOOKS.glob("*.ipynb")))
    args = parser.parse_args()
    os.environ["PYTHONWARNINGS"] = QUIET
    for path in args.notebooks:
        started = time.perf_counter()
        notebook = execute(path)
        seconds = time.perf_counter() - started
        with sync_playwright() as playwright:
            page = browser_of(playwright).new_page()
            page.add_script_tag(content=get_plotlyjs())
            add_pictures(notebook, page)
        nbformat.write(notebook, path)
        print(f"{path.name}: {seconds:.0f} s, {path.stat().st_size >> 10} kB")


if __name__ == "__main__":
    main()
