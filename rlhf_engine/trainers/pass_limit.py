"""How many tokens a pass of a trainer reads, from the model that is loaded and the memory that is free where it is."""

from typing import Any

import torch

from rlhf_engine.config import RunConfig
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.memory.free import free_memory, held_memory
from rlhf_engine.runs.memory.passes import choose_pass_size
from rlhf_engine.runs.memory_estimate import Shape, estimate, read_shape
from rlhf_engine.stages import STAGES

MIB = 1 << 20


def pass_limit(backbone: Backbone, config: RunConfig, longest: int = 0, example: int = 0,
               before: int | None = None) -> tuple[int, dict[str, Any] | None]:
    """(most tokens of a pass, or 0 for no limit; what the journal says of it, or None where nothing is limited).

    Args:
        backbone: the model, as it is loaded.
        config: the settings, without a `micro_batch`.
        longest: tokens of the longest token row, where it is known.
        example: tokens of the largest row of the data, where it is known.
        before: the limit of a resumed run. It stays unless the run does not fit with it any more.
    """
    shape, device = loaded_shape(backbone), backbone.device.type
    if shape is None or device not in ("cpu", "cuda") or config.stage not in STAGES:
        return before or 0, None
    size = choose_pass_size(config, shape, device=device, free=room(backbone.device), tokens=longest,
                            example_tokens=example)
    if before is not None:
        need = estimate(config, shape, device=device, tokens=longest, pass_tokens=before).total
        if need <= size.free or not size.tokens or 0 < before <= size.tokens:
            return before, None
    if not size.tokens:
        return 0, None
    return size.tokens, {"rows": size.rows, "longest": size.longest, "tokens": size.tokens,
                         "need_mb": size.need // MIB, "free_mb": size.free // MIB}


def loaded_shape(backbone: Backbone) -> Shape | None:
    """The shape of a loaded model. Of a type whose memory is not known, that of a Llama of its sizes; else None."""
    config = backbone.base.config.get_text_config().to_dict()
    for kind in (config.get("model_type"), "llama"):
        try:
            return read_shape({**config, "model_type": kind})
        except UserError:
            continue
    return None


def room(device: torch.device) -> int:
    """Bytes that this process may take on a device in all: what is free, and what it holds already."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    return free_memory() + held_memory()
