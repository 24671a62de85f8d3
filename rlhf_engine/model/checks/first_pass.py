"""A first pass through a model that was just loaded: does it run, and does a position see only the text before it?"""

from collections.abc import Callable
from typing import Any

import torch

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.runs.model_files import not_causal

TOKENS = 8
"""Tokens of the text that is read."""
CHANGE, CHANGE_16_BITS = 1e-4, 2e-3
"""Relative change of hidden states that is more than rounding, in fp32 and in 16 bits."""


@torch.no_grad()
def check_first_pass(base: Any, hidden: Callable[[torch.Tensor], torch.Tensor], name: str) -> None:
    """Refuse a model that cannot be run, and one whose states depend on later tokens: an encoder such as BERT, or a
    decoder that was made bidirectional for embeddings.

    `hidden` maps ids [1, T] to hidden states [1, T, d]. Two texts are read that differ in their last token. The median
    over the other positions decides, because the router of a mixture of experts may round a token elsewhere.
    Raises UserError.
    """
    vocabulary = base.get_input_embeddings().weight.shape[0]
    ids = torch.arange(TOKENS, device=base.device)[None] % vocabulary
    try:
        base(input_ids=ids, use_cache=False)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a layer makes of sizes that do not belong together
        raise UserError(f"{name}: cannot be run ({type(error).__name__}: {first_line(error)}); check its config.json, "
                        "or choose another model") from None
    other = ids.clone()
    other[0, -1] = (other[0, -1] + vocabulary // 2) % vocabulary
    try:
        before, after = hidden(ids)[0, :-1], hidden(other)[0, :-1]
    except (TypeError, AttributeError):
        return  # `get_decoder()` is no decoder, which `read_logit_transform` refuses
    change = (before.float() - after.float()).norm(dim=-1) / before.float().norm(dim=-1).clamp_min(1e-12)
    if change.median() > (CHANGE if before.dtype == torch.float32 else CHANGE_16_BITS):
        raise not_causal(name, "a model in which each position sees the whole text, such as an encoder")
