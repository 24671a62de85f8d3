"""The frozen base model with its tokenizer: hidden states, logits, and gradient checkpointing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf_engine.model.checks.first_pass import check_first_pass
from rlhf_engine.model.fast_layers import is_small, unpack, use_frozen_norms, use_short_rows
from rlhf_engine.model.loading import stop_ids
from rlhf_engine.model.logit_transform import read_logit_transform
from rlhf_engine.runs.resolve import fingerprint

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

    Raises UserError for a model that `check_first_pass` or `read_logit_transform` refuses, or that has no end token.
    """

    def __init__(self, base: Any, tokenizer: Any, *, name: str, path: Path, dtype: str):
        self.base = base
        self.tokenizer = tokenizer
        self.name = name
        self.path = path
        self.dtype = dtype
        self.fingerprint = fingerprint(path)
        """Hash of the weights: an adapter belongs to one base."""
        base.requires_grad_(False)
        use_short_rows(base)
        use_frozen_norms(base)
        if is_small(base):
            unpack(base)
        self._switch_dropout_off()
        self.stop_ids = stop_ids(base, tokenizer)
        """Ids of the tokens that end a response."""
        self.pad_id: int = tokenizer.pad_token_id if self._has_embedding(tokenizer.pad_token_id) else self.stop_ids[0]
        """Id that fills rows up. Many tokenizers got a padding token that their model has no embedding for."""
        check_first_pass(base, self.hidden, name)
        self.logit_transform = read_logit_transform(base, self.hidden, name)

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
    def longest(self) -> int:
        """Number of positions the base knows."""
        config = self.base.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or UNLIMITED

    def _has_embedding(self, token: int | None) -> bool:
        return token is not None and 0 <= token < self.base.get_input_embeddings().weight.shape[0]

    # -- forward passes ----------------------------------------------------------------------------------------------

    def hidden(self, ids: torch.Tensor, **options: Any) -> torch.Tensor:
        """Last hidden states [B, T, d] (after the final norm) of right-padded `ids` [B, T] under the role in use.

        A causal model cannot see padding on the right, so no mask is needed. `options` go to the model.
        """
        return self.base.get_decoder()(input_ids=ids, use_cache=False, **options).last_hidden_state

    def depths(self, ids: torch.Tensor, **options: Any) -> list[torch.Tensor]:
        """Hidden states [B, T, d] of right-padded `ids` [B, T] at three depths: embeddings, middle, and end
        (normed)."""
        output = self.base.get_decoder()(input_ids=ids, use_cache=False, output_hidden_states=True, **options)
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

    def _checkpointing_layers(self) -> list[GradientCheckpointingLayer]:
        return [module for module in self.base.modules() if isinstance(module, GradientCheckpointingLayer)]

    @contextmanager
    def checkpointing(self, enabled: bool = True) -> Iterator[None]:
        """Gradient checkpointing during an update. Do not sample inside: it switches the KV cache off."""
        layers = self._checkpointing_layers() if enabled else []
        if layers:
            self.base.gradient_checkpointing_enable({"use_reentrant": False})
        for layer in layers:
            layer.training = True  # the layer itself, not its children: dropout stays off
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False
            if layers:
                self.base.gradient_checkpointing_disable()

    @contextmanager
    def pause_checkpointing(self) -> Iterator[None]:
        """Switch gradient checkpointing off for a moment in the middle of an update, in which something is sampled."""
        layers = [layer for layer in self._checkpointing_layers() if layer.training]
        for layer in layers:
            layer.training = False
        try:
            yield
        finally:
            for layer in layers:
                layer.training = True
