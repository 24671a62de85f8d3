"""Taking a checkpoint along: a clean PEFT folder, or the adapter merged into its base, each with a model card; and onto the Hub.

Everything is written beside the place where it is to stand and gets its name when it is complete; nothing is ever overwritten, and
nothing is merged into a quantised base.
"""

import json
import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import psutil
import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from transformers import AutoTokenizer, GenerationConfig

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.export.hub import check_repo, push
from rlhf_engine.export.model_card import Card, card
from rlhf_engine.files import check_place, read_json_or_none, write_json
from rlhf_engine.model.backbone import Backbone, read_lora
from rlhf_engine.model.loading import load_base
from rlhf_engine.runs.folder import Run, step_of
from rlhf_engine.runs.resolve import check_adapter, fingerprint, resolve_adapter, resolve_model

OWN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The formats that a base may have for a merge, as safetensors names them."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
LIBRARIES = 1 << 30
"""Bytes of memory that Python, its libraries and the layer in work take besides the weights (measured: 0.4 to 0.9 GB)."""
SHARD = "5GB"
"""Largest weight file, so that an upload that breaks off has not to begin anew."""


@dataclass(frozen=True)
class Source:
    """An adapter, the base that it belongs to, and where both come from."""

    model: str
    base: Path
    folder: Path
    reward: bool = False
    run: Run | None = None
    step: int = 0

    @property
    def on_hub(self) -> bool:
        return self.model != "bundled" and not Path(self.model).is_dir()

    @property
    def base_name(self) -> str:
        """By which the base is found: its id on the Hub, or its folder on this machine."""
        return self.model if self.on_hub else str(self.base.absolute())


def export(model: str, adapter: str, output: str | Path, *, merge: bool = False, dtype: str = "auto", push_to: str = "",
           public: bool = False, say: Callable[[str], None] = print) -> None:
    """Write an adapter (policy, or reward with its head), or with `merge` a whole model in `dtype` ("auto" is the base's own), into the
    new folder `output`, and push it to the Hub repository `push_to`, private unless `public`. `say` is told what is done, a line each.

    Raises UserError, and leaves nothing behind, for what cannot be exported or has no room; where only the push fails, the folder stays.
    """
    output = Path(output)
    check_output(output)
    source = find(model, adapter)
    if merge:
        check_merge(source, output, dtype)
    if push_to:
        if not merge and not source.on_hub:
            raise UserError(f"--push: {model} is a base on this machine, without which nobody on the Hub can use the adapter; "
                            "add --merge, or train on a base from the Hub")
        check_repo(push_to, public)
    for note in notes(source, merge):
        say(note)
    with atomic_folder(output) as folder:
        if merge:
            say(f"merging into {source.model}")
            write_merged(source, folder, dtype)
        else:
            write_adapter(source, folder)
        text = card(card_facts(source, merge, push_to))
        (folder / "README.md").write_text(text, encoding="utf-8")
        for file in folder.iterdir():  # weights are written for nobody else to read
            shutil.copymode(folder / "README.md", file)
    say(f"{output}: {'a whole model' if merge else 'a reward model' if source.reward else 'an adapter'}; its README.md says how to load it")
    if merge and source.model != "bundled":
        say(f"for llama.cpp: python convert_hf_to_gguf.py {shlex.quote(str(output))} --outfile {shlex.quote(f'{output.name}.gguf')}")
    if push_to:
        say(f"pushing to {push_to} ({'public' if public else 'private'})")
        say(f"pushed: {push(output, push_to, public)}")


# -- what is exported ----------------------------------------------------------------------------------------------------

def find(model: str, adapter: str) -> Source:
    """What MODEL and ADAPTER name, with the base's fingerprint checked. Raises UserError."""
    if adapter in ("none", ""):
        raise UserError("--adapter none: the bare base is nothing to export; name a run folder, its checkpoint or a PEFT folder")
    try:
        folder = resolve_adapter(adapter, model)
    except UserError as error:
        try:  # a reward run has no policy
            folder = resolve_adapter(adapter, model, role="reward")
        except UserError:
            raise error from None
    if folder.name == "value" and (folder.parent / "trainer.json").exists():
        raise UserError(f"{folder}: a value function is of no use outside of its run; name the policy's folder")
    base = resolve_model(model)
    check_adapter(folder, fingerprint(base))
    read_lora(folder)
    run, step = origin(folder)
    headed = folder.name not in ("policy", "reference") and (folder / "head.safetensors").exists()  # a policy's head is its value function
    return Source(model, base, folder, headed, run, step)


def origin(folder: Path) -> tuple[Run | None, int]:
    """(run, step) whose checkpoint a folder is in; (None, 0) for any other."""
    checkpoint = folder.absolute().parent
    run = Run(checkpoint.parent.parent)
    if checkpoint.parent.name != "checkpoints" or not run.exists():
        return None, 0
    name = checkpoint.resolve().name
    return run, step_of(Path(name)) if name.startswith("step-") else run.last_step()


def notes(source: Source, merge: bool) -> list[str]:
    """What a user has to know of this export."""
    found = []
    if source.reward:
        found.append("a reward model is an adapter and its head: the folder is copied as it stands, for --reward and --judge")
    if merge and trained_on_nf4(source.run):
        found.append("trained on the base in 4 bits and merged into the full-precision one: it may answer slightly differently")
    return found


def trained_on_nf4(run: Run | None) -> bool:
    return bool(run) and run.config().get("dtype") == "nf4"


def card_facts(source: Source, merge: bool, repo: str) -> Card:
    """What the card tells. The numbers of a run are those of its last step, and of no other checkpoint."""
    run = source.run
    report = (run.report() or {}) if run else {}
    return Card(source.base_name, source.base, source.on_hub, merged=merge, reward=source.reward, repo=repo,
                four_bits=trained_on_nf4(run), step=source.step, config=run.config() if run else {},
                report=report if report.get("steps") == source.step else {})


# -- the two kinds -------------------------------------------------------------------------------------------------------

def write_adapter(source: Source, folder: Path) -> None:
    """A PEFT folder with the tokenizer; of a reward model with the head."""
    config = read_json_or_none(source.folder / "adapter_config.json")
    # What names a library to import has no place in a folder that others open.
    config |= {"base_model_name_or_path": source.base_name, "auto_mapping": None, "inference_mode": True}
    write_json(folder / "adapter_config.json", config)
    for name in ("adapter_model.safetensors", *(["head.safetensors"] if source.reward else [])):
        shutil.copyfile(source.folder / name, folder / name)
    write_json(folder / "base.json", {"model": source.model, "fingerprint": fingerprint(source.base)})
    save_tokenizer(AutoTokenizer.from_pretrained(source.base, trust_remote_code=False), folder)


def check_merge(source: Source, output: Path, dtype: str) -> None:
    """Raises UserError where nothing can be merged: a reward model, a quantised base, no room on the disk or in memory."""
    if source.reward:
        raise UserError(f"{source.folder}: a reward model is an adapter and its head, which no merged model holds; leave out --merge")
    if (read_json_or_none(source.base / "config.json") or {}).get("quantization_config"):
        raise UserError(f"{source.model}: is quantised, and nothing is merged into a quantised base; leave out --merge")
    count, own = read_weights(source)
    held, written = (count * kind.itemsize for kind in formats(own, dtype))
    for what, need, free in (("disk", written * 1.05, shutil.disk_usage(existing(output)).free),
                             ("memory", held * 1.05 + LIBRARIES, psutil.virtual_memory().available)):
        if need > free:
            raise UserError(f"{output}: merging takes {need / 1e9:.1f} GB of {what}, and {free / 1e9:.1f} GB are free; make room, "
                            "or leave out --merge")


def read_weights(source: Source) -> tuple[int, torch.dtype]:
    """(how many numbers the base's weights are, the format of most). Raises UserError for quantised or broken files."""
    counts: dict[str, int] = {}
    try:
        for file in source.base.glob("model*.safetensors"):
            with open(file, "rb") as handle:
                header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
            for entry in (header[name] for name in header if name != "__metadata__"):
                counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + prod(entry["shape"])
        most = max(counts, key=counts.get)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{source.model}: its weights cannot be read ({first_line(error)}); fetch them anew") from None
    if most not in OWN:
        raise UserError(f"{source.model}: has weights in {most}, and nothing is merged into a quantised base; leave out --merge")
    return sum(counts.values()), OWN[most]


def formats(own: torch.dtype, dtype: str) -> tuple[torch.dtype, torch.dtype]:
    """(format to load in, format to write): what is written in another format than the base's is rounded once, from fp32."""
    written = DTYPES.get(dtype, own)
    return own if written == own else torch.float32, written


def write_merged(source: Source, folder: Path, dtype: str) -> None:
    """A whole model with tokenizer and generation config, which ends its answers where the engine ends them."""
    loaded, written = formats(read_weights(source)[1], dtype)
    base, tokenizer, path, _ = load_base(str(source.base), loaded, "cpu")
    backbone = Backbone(base, tokenizer, name=source.model, path=path, dtype=str(loaded))
    backbone.load_role("policy", source.folder, head=False)
    merge_role(backbone, source)
    merged = backbone.base.to(written)
    held = merged.generation_config
    held.eos_token_id, held.pad_token_id = backbone.stop_ids, backbone.pad_id
    try:
        held.validate(strict=True)
    except ValueError:  # settings that contradict each other, with which transformers loads a model, but saves none
        merged.generation_config = GenerationConfig(bos_token_id=held.bos_token_id, eos_token_id=held.eos_token_id,
                                                    pad_token_id=held.pad_token_id)
    merged.save_pretrained(folder, max_shard_size=SHARD)
    save_tokenizer(tokenizer, folder)
    strip_local_paths(folder / "config.json")


@torch.no_grad()
def merge_role(backbone: Backbone, source: Source) -> None:
    """Add the policy's products to the base's weights, in fp32 and layer by layer, and take its adapter off. Raises UserError."""
    base = backbone.base
    embedding, output = base.get_input_embeddings().weight, base.get_output_embeddings().weight
    for layer in [layer for layer in base.modules() if isinstance(layer, LoraLayer)]:
        weight = layer.get_base_layer().weight
        if embedding is output and weight is embedding:
            raise UserError(f"{source.folder}: adapts one of two layers that share their weights, so it is never merged; leave out --merge")
        kind = weight.dtype
        weight.data = weight.data.float()
        try:
            layer.merge(safe_merge=True, adapter_names=["policy"])
        except ValueError:
            raise UserError(f"{source.folder}: holds numbers that are not finite; name an earlier checkpoint") from None
        weight.data = weight.data.to(kind)
    backbone.drop_role("policy")


def save_tokenizer(tokenizer, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    strip_local_paths(folder / "tokenizer_config.json")


def strip_local_paths(path: Path) -> None:
    """Take out what points to code of the base's repository, or to a folder of this machine."""
    left_out = ("auto_map", "_name_or_path", "name_or_path", "is_local", "local_files_only")
    write_json(path, {name: value for name, value in read_json_or_none(path).items() if name not in left_out})


# -- the place -----------------------------------------------------------------------------------------------------------

def check_output(output: Path) -> None:
    if output.is_symlink() or output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already, and nothing is overwritten: name a new folder with --output")
    check_place(output)


def existing(path: Path) -> Path:
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A folder beside `output` to fill, which becomes it when all is written, and is removed if anything fails."""
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    for left in output.parent.glob(".export-*"):  # of processes that were killed
        pid = left.name.rpartition("-")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    partial = output.parent / f".export-{output.name}-{os.getpid()}"
    try:
        partial.mkdir()
        yield partial
        if output.exists():  # an empty folder, whose place not every system lets another take
            output.rmdir()
        partial.rename(output)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{output}: cannot be written ({getattr(error, 'strerror', None) or first_line(error)}); make room, or name "
                        "another folder with --output") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
