"""The memory budget: what a run is estimated to take, as a stacked bar against what this machine has free. No torch is asked."""

import dataclasses
import re
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import psutil

from playground.components import text
from playground.components.charts import POLICY, REFERENCE, REWARD, VALUE
from playground.components.html import escape
from playground.workspace import Workspace
from rlhf_engine.config import RunConfig
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json
from rlhf_engine.runs.memory_estimate import Estimate, Shape, estimate, read_model, read_shape
from rlhf_engine.runs.resolve import BUNDLED_MODEL
from rlhf_engine.stages import BUNDLED_PROMPT_TOKENS, find_stage, make_config

COLOURS = {"base": "#4a5564", "policy": POLICY, "reference": REFERENCE, "reward": REWARD, "value": VALUE, "rollout": "#56B4E9",
           "update": "#8298ad", "runtime": "#b4bdc9"}
"""The roles in their colours; what belongs to no role in greys and a light blue."""
TIGHT = 0.8
"""Share of the free memory above which an estimate that may be a fifth off promises nothing."""

SEEN = 1.5
"""How much of the free memory is drawn, in multiples of the need."""


@dataclass(frozen=True)
class Machine:
    """Where a run would go: "cpu" or "cuda", its name, and bytes that the run may take; what the worker holds now counts as free."""

    device: str
    name: str
    free: int
    total: int


def machine(home: Path, device: str = "auto") -> Machine:
    """The GPU where torch can use one and `device` wants it, else this computer."""
    pid = worker_pid(home)
    gpu = None if device == "cpu" else gpu_memory(pid, int(time.monotonic() / 5))
    if gpu:
        return gpu
    memory = psutil.virtual_memory()
    try:
        held = psutil.Process(pid).memory_info().rss if pid else 0
    except psutil.Error:
        held = 0
    return Machine("cpu", text.THIS_MACHINE, memory.available + held, memory.total)


def worker_pid(home: Path) -> int:
    try:
        return int((read_json(home / "worker.json") or {}).get("pid", 0))
    except (ValueError, OSError, AttributeError):
        return 0


@lru_cache(maxsize=4)
def gpu_memory(pid: int, _moment: int) -> Machine | None:
    """The first GPU as nvidia-smi tells; None without one, or with a torch that was built without CUDA. Asked once in five seconds."""
    if not torch_has_cuda():
        return None
    try:
        name, free, total = (part.strip() for part in ask_gpu("gpu=name,memory.free,memory.total")[0].split(","))
        rows = [line.split(",") for line in ask_gpu("compute-apps=pid,used_memory")]
        held = sum(int(used) for owner, used in rows if pid and int(owner) == pid)
        return Machine("cuda", name, (int(free) + held) << 20, int(total) << 20)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def ask_gpu(query: str) -> list[str]:
    done = subprocess.run(["nvidia-smi", f"--query-{query}", "--format=csv,noheader,nounits"], capture_output=True, text=True, timeout=5,
                          check=True)
    return [line for line in done.stdout.splitlines() if line.strip()]


@lru_cache(maxsize=1)
def torch_has_cuda() -> bool:
    """What torch's own version file says, read without importing it."""
    found = find_spec("torch")
    try:
        said = (Path(found.origin).parent / "version.py").read_text(encoding="utf-8") if found else ""
    except OSError:
        return False
    return bool(re.search(r"^cuda\b[^=]*=\s*['\"]", said, re.MULTILINE))


# -- models ------------------------------------------------------------------------------------------------------------

def folder_of(workspace: Workspace, model: str) -> Path | None:
    """Where the files of a model lie on this machine; None for a Hub id that has not been downloaded. Raises UserError for a path outside
    the workspace."""
    name = workspace.seen_model(model)
    if name == "bundled":
        return BUNDLED_MODEL
    if Path(name).is_absolute():
        return Path(name)
    from huggingface_hub import try_to_load_from_cache
    found = try_to_load_from_cache(name, "config.json")
    return Path(found).parent if isinstance(found, str) else None


def shape_of(workspace: Workspace, model: str) -> Shape:
    """Raises UserError where the size of a model cannot be known."""
    folder = folder_of(workspace, model)
    if folder is None and model in SHAPES:
        return read_shape(SHAPES[model], model)
    if folder is None:
        raise UserError(text.NOT_DOWNLOADED.format(model=model))
    return read_shape(read_model(folder, model), model)


def longest_row(config: RunConfig) -> int:
    """Tokens of the longest row where it is known: of the bundled data on the bundled model. Else 0."""
    if (config.model, config.data) != ("bundled", "bundled"):
        return 0
    profile = find_stage(config.stage).memory
    if not profile.sampled(config):
        return profile.bundled_tokens
    sampled = BUNDLED_PROMPT_TOKENS + config.max_new_tokens
    return sampled if profile.online else max(sampled, profile.bundled_tokens)


# -- on the page -------------------------------------------------------------------------------------------------------

def budget(workspace: Workspace, stage: str, settings: dict) -> str:
    """The memory of a run that may be started, as HTML. What cannot be said is said in words."""
    try:
        config = make_config(stage, settings)
        shape = shape_of(workspace, config.model)
        here = machine(workspace.home, config.device)
        return drawing(config, shape, here)
    except UserError as error:
        return f'<section class="budget"><p class="empty">{escape(error)}</p></section>'


def drawing(config: RunConfig, shape: Shape, here: Machine) -> str:
    tokens = longest_row(config)
    found = estimate(config, shape, device=here.device, tokens=tokens)
    rows = min(tokens or config.max_tokens, config.max_tokens, shape.longest)
    note = (text.ROWS_KNOWN if tokens else text.ROWS_UNKNOWN).format(tokens=rows)
    said = verdict(found, here)
    if found.total > here.free:
        said = f"{said} {way_out(config, shape, here, tokens)}"
    state = "over" if found.total > here.free else "tight" if found.total > TIGHT * here.free else "fits"
    return (f'<section class="budget {state}"><p class="said" role="status">{escape(said)}</p>{bar(found, here)}{legend(found)}'
            f'<p class="empty">{escape(note)}</p></section>')


def verdict(found: Estimate, here: Machine) -> str:
    words = text.TOO_MUCH if found.total > here.free else text.TIGHT if found.total > TIGHT * here.free else text.FITS
    return words.format(need=size(found.total), free=size(here.free), device=here.name)


def bar(found: Estimate, here: Machine) -> str:
    """The parts side by side, on a scale that ends with the free memory or with the need, whichever is more; where there is far more free
    than is needed, the bar fades out before its end."""
    scale = max(found.total, min(here.free, SEEN * found.total))
    parts = "".join(f'<i style="width:{100 * count / scale:.2f}%;background:{COLOURS[name]}"></i>'
                    for name, count in found.parts.items() if count)
    mark = f'<b style="left:{100 * here.free / scale:.2f}%"></b>' if here.free < scale else ""
    said = f"{text.MEMORY}: {size(found.total)}; {text.FREE} {size(here.free)}; " + ", ".join(
        f"{text.PARTS[name]} {size(count)}" for name, count in found.parts.items() if count)
    beyond = " beyond" if here.free > scale else ""
    return f'<div class="stack{beyond}" role="img" aria-label="{escape(said)}">{parts}{mark}</div>'


def legend(found: Estimate) -> str:
    rows = "".join(f'<li><i style="background:{COLOURS[name]}"></i><span title="{escape(text.PARTS_ABOUT[name])}">{text.PARTS[name]}</span> '
                   f'<em>{size(count)}</em></li>' for name, count in found.parts.items() if count)
    return f'<ul class="legend">{rows}</ul>'


def way_out(config: RunConfig, shape: Shape, here: Machine, tokens: int) -> str:
    """The fewest of the usual savings, one after another, with which a run fits."""
    changes: dict = {}
    for name, value in (("micro_batch", 4), ("gradient_checkpointing", True), ("dtype", "nf4"), ("micro_batch", 1)):
        if getattr(config, name) == value or (name == "micro_batch" and 0 < config.micro_batch <= value):
            continue
        changes[name] = value
        found = estimate(dataclasses.replace(config, **changes), shape, device=here.device, tokens=tokens)
        if found.total <= TIGHT * here.free:
            return text.WAY_OUT.format(changes=", ".join(text.CHANGED_TO[n].format(v) for n, v in changes.items()), need=size(found.total))
    return text.NO_WAY_OUT


def measured(workspace: Workspace, settings: dict, status: dict) -> str:
    """What a run took at its peak, beside what had been estimated; nothing before the first step."""
    peak = status.get("peak_memory_mb")
    if not peak:
        return ""
    try:
        values = {name: value for name, value in settings.items() if name != "stage"}
        config = make_config(settings["stage"], values | {"model": workspace.name_of(settings["model"])})
        device = machine(workspace.home, config.device).device
        need = estimate(config, shape_of(workspace, config.model), device=device, tokens=longest_row(config)).total
        said = text.MEASURED.format(peak=size(peak << 20), need=size(need))
    except UserError:  # the model has gone, or nobody knows its kind
        said = text.MEASURED_ONLY.format(peak=size(peak << 20))
    return f'<p class="empty">{escape(said)}</p>'


def size(count: float) -> str:
    """Bytes for people."""
    if count < 1 << 20:
        return f"{max(count / (1 << 20), 0.1):.1f} MB"
    if count < 1000 << 20:
        return f"{count / (1 << 20):.0f} MB"
    return f"{count / (1 << 30):.1f} GB"


_QWEN3 = {"model_type": "qwen3", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960}


SHAPES = {
    "Qwen/Qwen3-1.7B": _QWEN3 | {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
                                 "tie_word_embeddings": True},
    "Qwen/Qwen3-4B": _QWEN3 | {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
                               "tie_word_embeddings": True},
    "Qwen/Qwen3-8B": _QWEN3 | {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
                               "tie_word_embeddings": False},
}
"""What the config.json of the suggested models says about their size, so that the memory is known before they are downloaded."""
