"""The frozen base model with its tokenizer: hidden states, logits, and gradient checkpointing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.model.batching import limit_kernel_caches, out_of_memory
from rlhf_engine.model.decoders import agree
from rlhf_engine.model.fast_layers import (
    is_small,
    unpack,
    use_frozen_norms,
    use_short_rows,
    use_stock_layers,
    use_whole_rows,
)
from rlhf_engine.model.loading import stop_ids
from rlhf_engine.model.logit_transform import read_logit_transform
from rlhf_engine.runs.resolve import fingerprint

PROBED_TOKENS, MOST_PROBED_TOKENS = 16, 256
"""Tokens of the rows on which a model is tried when it is loaded, and the most of them."""
UNLIMITED = 1 << 30
"""Positions of a model that does not say how many it knows."""


class FrozenBase:
    """A causal language model of transformers whose weights never change, and its tokenizer.

    Args:
        base: the model. Some of its layers are replaced by faster ones (`fast_layers`).
        tokenizer: of the model.
        name: by which the user named it.
        path: its folder.
        dtype: format of its weights: "fp32", "bf16", "nf4", or a torch dtype as text.

    Raises UserError for a model whose logits `read_logit_transform` refuses, or that has no end token.
    """

    def __init__(self, base: Any, tokenizer: Any, *, name: str, path: Path, dtype: str):
        limit_kernel_caches()
        self.base = base
        self.tokenizer = tokenizer
        self.name = name
        self.path = path
        self.dtype = dtype
        self.fingerprint = fingerprint(path)
        """Hash of the weights: an adapter belongs to one base."""
        base.requires_grad_(False)
        if getattr(base.config, "rescale_every", 0):
            # RWKV halves weights for good in its first pass outside of training, lest fp16 overflow. What is added to
            # them later, an adapter or the file of a merged model, would have another scale.
            base.config.rescale_every = 0
        if is_small(base):
            unpack(base)
        use_whole_rows(base)
        self._switch_dropout_off()
        self.stop_ids = stop_ids(base, tokenizer)
        """Ids of the tokens that end a response."""
        pad = tokenizer.pad_token_id
        self.pad_id: int = pad if pad is not None and 0 <= pad < self.known_tokens else self.stop_ids[0]
        """Id that fills rows up. Many tokenizers got a padding token for which their model has no embedding."""
        try:
            self.logit_transform = read_logit_transform(base, self.hidden, name)
            check_causal(self, use_fast_layers(self))
        except (UserError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # of the model's own code: a kernel that is missing here, say
            if out_of_memory(error):
                raise
            raise UserError(f"{name}: a first pass over a few tokens fails ({first_line(error)}); "
                            "choose another model") from None

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.base.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        """d, the width of the last hidden states."""
        return self.base.get_output_embeddings().in_features

    @property
    def vocabulary(self) -> int:
        """V, the number of tokens that the output layer knows."""
        return self.base.get_output_embeddings().weight.shape[0]

    @property
    def known_tokens(self) -> int:
        """Number of token ids that both the embedding and the output layer know."""
        return min(self.vocabulary, self.base.get_input_embeddings().weight.shape[0])

    @property
    def longest(self) -> int:
        """Number of positions the base knows.

        LongRoPE turns every position of a row by other angles once the row is longer than `original`. A response that
        grows past it would be scored as a model that never sampled it, so it ends there.
        """
        config = self.base.config.get_text_config()
        names = ("max_position_embeddings", "max_target_positions", "max_seq_len")  # Whisper and MPT have the latter
        sizes = [getattr(config, name, None) or 0 for name in names]
        sizes.append(longrope_original(getattr(config, "rope_parameters", None)))
        return min((size for size in sizes if size > 0), default=UNLIMITED)

    # -- forward passes ----------------------------------------------------------------------------------------------

    def hidden(self, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        """Last hidden states [B, T, d] (after the final norm) of right-padded `ids` [B, T] under the role in use.

        A causal model cannot see padding on the right, so no mask is needed. `options` go to the model.
        """
        return decoder_of(self.base)(input_ids=ids, use_cache=False, **options).last_hidden_state

    def depths(self, ids: torch.Tensor, **options: Any) -> list[torch.Tensor]:
        """Hidden states [B, T, d] of right-padded `ids` [B, T] at three depths: embeddings, middle, and end
        (normed)."""
        output = decoder_of(self.base)(input_ids=ids, use_cache=False, output_hidden_states=True, **options)
        states = output.hidden_states
        return [states[0], states[len(states) // 2], states[-1]]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V], in fp32, of last hidden states [..., d]."""
        return self.logit_transform(self.base.get_output_embeddings()(hidden))

    # -- modes -------------------------------------------------------------------------------------------------------

    def _switch_dropout_off(self) -> None:
        """Set all modules to evaluation mode, except 4-bit layers.

        On a CPU, bitsandbytes repacks a `Linear4bit` for good at its first forward pass in evaluation mode without
        gradients, into a layout whose gradients are wrong without an error. `Linear4bit` has no dropout, so training
        mode costs nothing.
        """
        self.base.eval()
        for module in self.base.modules():
            if type(module).__name__ == "Linear4bit":
                module.training = True

    @contextmanager
    def checkpointing(self, enabled: bool = True) -> Iterator[None]:
        """Gradient checkpointing during an update: blocks keep their inputs alone, and the backward pass runs them
        again.

        transformers would switch the blocks to training mode for that, in which some of them (OPT, XGLM, BioGPT,
        Falcon) drop out activations. Here they stay in evaluation mode and their forward passes are wrapped. A model
        without such blocks (`GradientCheckpointingLayer`) is trained without checkpointing.
        """
        layers = [module for module in self.base.modules() if isinstance(module, GradientCheckpointingLayer)]
        before = {layer: layer.__dict__.get("forward") for layer in layers}
        for layer in layers if enabled else []:
            layer.forward = partial(run_checkpointed, layer.forward)
        try:
            yield
        finally:
            for layer, forward in before.items():
                layer.__dict__.pop("forward", None)
                if forward is not None:
                    layer.forward = forward


def longrope_original(rope: Any) -> int:
    """Tokens of the longest row that LongRoPE reads with its first angles; 0 for other rotary embeddings.

    Args:
        rope: the parameters of a model's rotary embedding, or a mapping from kinds of layers to such.
    """
    if not isinstance(rope, dict):
        return 0
    if rope.get("rope_type") == "longrope":
        return int(rope.get("original_max_position_embeddings") or 0)
    return min(filter(None, map(longrope_original, rope.values())), default=0)


def decoder_of(base: Any) -> nn.Module:
    """The part of a causal language model that ends in its last hidden states.

    transformers' `get_decoder` gives the whole model for Llama 4, whose decoder has another name than it looks for.
    """
    decoder = base.get_decoder()
    return base.model if decoder is base and isinstance(getattr(base, "model", None), nn.Module) else decoder


def probed_rows(frozen: FrozenBase) -> torch.Tensor:
    """Random token rows [3, T] of which the first halves are equal; the last one's other half is padding.

    They are longer than the chunks of a model that sorts its tokens into some (Reformer), where such chunks are short.
    """
    settings = frozen.base.config.get_text_config().to_dict()
    chunks = [size for name, size in settings.items() if "chunk_length" in name and type(size) is int]
    length = min(max([PROBED_TOKENS, *(3 * size for size in chunks)]), MOST_PROBED_TOKENS, frozen.longest)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(frozen.known_tokens, (3, length), generator=generator).to(frozen.device)
    half = length // 2
    ids[1:, :half] = ids[0, :half]
    ids[2, half:] = frozen.pad_id
    return ids


@torch.no_grad()
def use_fast_layers(frozen: FrozenBase) -> torch.Tensor:
    """Replace layers of the model by faster ones (`fast_layers`), unless it computes something else with them.

    Returns the states [3, T, d] of `probed_rows`, as the model computes them from then on.
    """
    ids = probed_rows(frozen)
    expected = frozen.hidden(ids)
    use_short_rows(frozen.base)
    use_frozen_norms(frozen.base)
    try:
        states = frozen.hidden(ids)
    except (RuntimeError, TypeError, ValueError) as error:  # of a model that asks which attention it has
        if out_of_memory(error):
            raise
        states = None
    if states is not None and agree(states, expected, frozen.dtype):
        return states
    use_stock_layers(frozen.base)
    return expected


@torch.no_grad()
def check_causal(frozen: FrozenBase, states: torch.Tensor) -> None:
    """Raises UserError for a model in which a token sees the tokens behind it, or in which padding on the right
    changes the tokens before it. `states` [3, T, d] are those of `probed_rows`."""
    ids = probed_rows(frozen)
    half = ids.shape[1] // 2
    alone = frozen.hidden(ids[:1, :half])
    if not alone.isfinite().all():  # where numbers go wrong, sampling and training say so
        return
    if not agree(states[:, :half], alone.expand(3, -1, -1), frozen.dtype):
        raise UserError(f"{frozen.name}: what it computes for a token depends on the tokens behind it, so it does not "
                        "write from left to right; choose a causal language model, such as Llama, Qwen or GPT-2")


@torch.no_grad()
def layers_read_directly(frozen: FrozenBase) -> list[str]:
    """Ends of the names of linear layers that have to go without an adapter, because the model reads their weights
    itself, past whatever is on them.

    Such a layer is never called while the module that holds it is; Mamba's mixers are built like that. Their kernels
    for a GPU read the last projection in the same way, and PEFT refuses it.
    """
    called: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda module, arguments: called.add(module))
               for module in frozen.base.modules()]
    try:
        frozen.hidden(probed_rows(frozen))
    finally:
        for handle in handles:
            handle.remove()
    names = set()
    for path, module in frozen.base.named_modules():
        is_mixer = hasattr(module, "A_log") and hasattr(module, "D")
        for name, child in module.named_children() if module in called else ():
            passed = isinstance(child, nn.Linear) and child not in called
            if passed or (is_mixer and name in ("out_proj", "conv1d")):
                names.add(f"{path.rpartition('.')[2]}.{name}")
    return sorted(names)


def run_checkpointed(forward: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A block's forward pass, which is run again in the backward pass. Without gradients it is run as it is."""
    if not torch.is_grad_enabled():
        return forward(*args, **options)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **options)
