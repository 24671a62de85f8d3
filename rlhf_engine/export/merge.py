"""Merges an adapter into its base, and writes the result as a whole model."""

import shutil
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch
from peft.tuners.lora.layer import ParamWrapper
from transformers import GenerationConfig

from rlhf_engine.errors import UserError
from rlhf_engine.export.output_folder import existing_parent, save_tokenizer, strip_local_paths
from rlhf_engine.export.source import Source
from rlhf_engine.files import read_json_or_none
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.loading import load_base
from rlhf_engine.model.lora.layers import lora_layers
from rlhf_engine.runs import model_files

MERGEABLE = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""The formats of weights that an adapter can be merged into, under their names in safetensors."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""The formats that a merged model can be written in, besides that of its base."""
LIBRARIES = 1 << 30
"""Bytes of memory that Python, its libraries and a layer in work take besides the weights (measured: 0.4 to 0.9 GB)."""
SPARE = 1.05
"""Factor on the bytes of the weights, for all that is not a weight."""
SHARD = "5GB"
"""Largest weight file, so that an upload that breaks off does not begin anew."""


def check_merge(source: Source, output: Path, dtype: str) -> None:
    """Raises UserError if nothing can be merged: a reward model, a quantised base, no room on the disk or in memory."""
    if source.reward:
        raise UserError(f"{source.folder}: a reward model is an adapter and its head, which no merged model holds; "
                        "leave out --merge")
    if (read_json_or_none(source.base / "config.json") or {}).get("quantization_config"):
        raise UserError(f"{source.model}: is quantised, and nothing is merged into a quantised base; leave out --merge")
    count, own = read_weights(source)
    loaded, written = formats(own, dtype)
    disk = count * written.itemsize * SPARE
    memory = count * loaded.itemsize * SPARE + LIBRARIES
    for what, needed, free in (("disk", disk, shutil.disk_usage(existing_parent(output)).free),
                               ("memory", memory, psutil.virtual_memory().available)):
        if needed > free:
            raise UserError(f"{output}: merging takes {needed / 1e9:.1f} GB of {what}, and {free / 1e9:.1f} GB are "
                            "free; make room, or leave out --merge")


def read_weights(source: Source) -> tuple[int, torch.dtype]:
    """(count of the base's weights, format of most of them), from the headers of its files.

    Raises UserError for quantised or broken files.
    """
    counts: dict[str, int] = {}
    for tensor in model_files.read_weights(source.base, f"{source.model}: its weights cannot be read").values():
        counts[tensor.format] = counts.get(tensor.format, 0) + prod(tensor.shape)
    most = max(counts, key=lambda name: counts[name])
    if most not in MERGEABLE:
        raise UserError(f"{source.model}: has weights in {most}, and nothing is merged into a quantised base; leave "
                        "out --merge")
    return sum(counts.values()), MERGEABLE[most]


def formats(own: torch.dtype, dtype: str) -> tuple[torch.dtype, torch.dtype]:
    """(format to load in, format to write). What is written in another format than the base's is rounded once, from
    fp32."""
    written = DTYPES.get(dtype, own)
    return own if written == own else torch.float32, written


def write_merged(source: Source, folder: Path, dtype: str) -> None:
    """Write a whole model, with tokenizer and a generation config that ends responses where the engine ends them."""
    loaded, written = formats(read_weights(source)[1], dtype)
    base, tokenizer, path, _ = load_base(str(source.base), loaded, "cpu")
    backbone = Backbone(base, tokenizer, name=source.model, path=path, dtype=str(loaded))
    backbone.load_role("policy", source.folder, head=False)
    merge_role(backbone, source)
    merged = backbone.base.to(written)
    generation = merged.generation_config
    generation.eos_token_id, generation.pad_token_id = backbone.stop_ids, backbone.pad_id
    try:
        generation.validate(strict=True)
    except ValueError:  # settings that contradict each other; transformers loads a model with them, but saves none
        merged.generation_config = GenerationConfig(bos_token_id=generation.bos_token_id, pad_token_id=backbone.pad_id,
                                                    eos_token_id=backbone.stop_ids)
    merged.save_pretrained(folder, max_shard_size=SHARD)
    save_tokenizer(tokenizer, folder)
    strip_local_paths(folder / "config.json")


@torch.no_grad()
def merge_role(backbone: Backbone, source: Source) -> None:
    """Add the policy's products to the base's weights, layer by layer in fp32, and drop its adapter. Raises
    UserError."""
    base = backbone.base
    owners = Counter(id(weight) for module in base.modules() for weight in module.parameters(recurse=False))
    layers = lora_layers(base).values()
    for layer in layers:
        if owners[id(adapted_weight(layer))] > 1:  # a tied output layer, or Zamba's blocks that repeat
            raise UserError(f"{source.folder}: adapts one of two layers that share their weights, so it is never "
                            "merged; leave out --merge")
        if layer.lora_bias.get("policy") and layer.get_base_layer().bias is None:
            raise UserError(f"{source.folder}: adds biases (lora_bias) to layers that have none, so it is never "
                            "merged; leave out --merge")
    for layer in layers:
        weight = adapted_weight(layer)
        dtype = weight.dtype
        weight.data = weight.data.float()
        try:
            layer.merge(safe_merge=True, adapter_names=["policy"])
        except ValueError:
            raise UserError(f"{source.folder}: holds numbers that are not finite; name an earlier checkpoint") from None
        weight.data = weight.data.to(dtype)
    backbone.drop_role("policy")


def adapted_weight(layer: Any) -> torch.nn.Parameter:
    """The weight of the base that a LoRA layer adapts. Experts have several, each with a LoRA layer of its own."""
    return layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
