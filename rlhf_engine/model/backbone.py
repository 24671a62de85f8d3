"""One frozen base model; policy, reference, reward and value are LoRA adapters (and scalar heads) on it.

`Backbone` alone chooses the active adapter and owns every `requires_grad` flag. A role is chosen in a scope that has to
cover forward and backward pass:

    with backbone.use("policy"):
        loss = ...
        loss.backward()

PEFT's own `set_adapter` makes the chosen adapter trainable and freezes the others. So a reference would become
trainable, and a policy would lose its gradient when a value pass comes between its forward and its backward. Here the
flags belong to the role and never change with the choice.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig, PeftModel
from torch import nn

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.files import expand_user, json_text
from rlhf_engine.model.adapters import ScalarHead, has_head, read_head, save_beside
from rlhf_engine.model.checks.finite import check_file
from rlhf_engine.model.frozen_base import FrozenBase, layers_read_directly
from rlhf_engine.model.loading import load_base
from rlhf_engine.model.lora.layers import (
    add_layers,
    forget_role,
    lora_layers,
    make_room,
    remove_layers,
    role_parameters,
    speed_up,
)
from rlhf_engine.model.lora.options import copy_lora, fresh_lora, lora_values, name_fitting, read_lora
from rlhf_engine.model.lora.weights import convert_names, fitting_weights, read_weights, write_weights
from rlhf_engine.runs.adapter_folder import CONFIG_FILE
from rlhf_engine.runs.resolve import check_adapter

HEAD_PREFIX = "head."
"""Begins the names of a head's parameters in `named_parameters`."""


class Backbone(FrozenBase):
    """A frozen base with its tokenizer and its roles. Make one with `Backbone.load`. Arguments are those of
    `FrozenBase`."""

    def __init__(self, base: Any, tokenizer: Any, *, name: str, path: Path, dtype: str):
        super().__init__(base, tokenizer, name=name, path=path, dtype=dtype)
        self.peft: PeftModel | None = None
        """PEFT's wrapper, once there is a role."""
        self.heads: dict[str, ScalarHead] = {}
        """The scalar head of each role that has one."""
        self._trainable: set[str] = set()
        self._active: str | None = None
        self._parameters: dict[str, list[nn.Parameter]] = {}
        """Parameters of each role, kept because finding them walks the whole model."""
        self._layers: list[Any] = []
        """The layers that adapters are on."""

    @classmethod
    def load(cls, model: str = "bundled", *, dtype: str = "auto", device: str = "auto") -> Self:
        """Load a base, frozen and without roles.

        Args:
            model: `bundled`, `smollm2`, a Hub id, a GGUF file or a folder.
            dtype: "fp32", "bf16", "nf4" (4 bits), or "auto": fp32 on a CPU, bf16 on a GPU.
            device: "cpu", "cuda", "cuda:N", or "auto".

        Raises UserError for a missing, gated or pickled model, for a format this machine lacks, and for a model whose
        logits `read_logit_transform` refuses.
        """
        base, tokenizer, path, loaded_dtype = load_base(model, dtype, device)
        return cls(base, tokenizer, name=str(model), path=path, dtype=str(loaded_dtype))

    # -- making roles ------------------------------------------------------------------------------------------------

    @property
    def roles(self) -> list[str]:
        """Names of the roles that have an adapter."""
        return list(self.peft.peft_config) if self.peft else []

    def new_role(self, role: str, *, rank: int = 8, alpha: int = 16, seed: int = 0) -> None:
        """A fresh adapter on every linear layer but the output layer: random A, zero B, so it changes nothing yet.

        Layers that the model reads past an adapter have none (`layers_read_directly`). Raises UserError for an
        architecture that PEFT cannot adapt.
        """
        config = fresh_lora(rank, alpha, self.name)
        config.exclude_modules = layers_read_directly(self) or None
        try:
            self._add(role, config, seed=seed)
        except ValueError as error:
            raise UserError(f"{self.name}: LoRA does not fit this architecture ({first_line(error)}); choose a "
                            "transformer, such as Llama, Qwen, Mistral or GPT-2") from None

    def copy_role(self, role: str, source: str) -> None:
        """A new adapter equal to that of `source`: all its options and weights, and the head. It is frozen until
        `train` names it."""
        self._add(role, copy_lora(self._peft.peft_config[source]))
        self._set_adapter(role, role_parameters(self.base, source))
        if source in self.heads:
            self.new_head(role, members=self.heads[source].members)
            self.heads[role].load_state_dict(self.heads[source].state_dict())

    def copy_weights(self, role: str, source: str) -> None:
        """Give the adapter of a role that exists the weights of another role of the same options. Heads stay."""
        self._set_adapter(role, role_parameters(self.base, source))

    def load_role(self, role: str, folder: str | Path, *, head: bool | None = None) -> None:
        """An adapter from a PEFT folder, and its head if there is one.

        `head=True` demands a head, `head=False` leaves it aside. Raises UserError if the adapter does not fit the base,
        has an option that no role can hold, or a number that is not finite; then nothing has changed.
        """
        folder = Path(expand_user(str(folder)))
        check_adapter(folder, self.fingerprint)
        config = read_lora(folder)
        advice = name_fitting(config, self.name)  # PEFT writes the name of this base over the adapter's own
        if head and not has_head(folder):
            raise UserError(f"{folder}: holds an adapter but no scalar head; name a reward run")
        if role in self.roles:
            raise KeyError(f"there is a role {role!r} already")
        try:
            self._add(role, config)
            if has_head(folder) and head is not False:
                self.new_head(role, members=len(read_head(folder)["bias"]))
            self.fill_role(role, folder)
        except UserError:
            self.drop_role(role)
            raise
        except Exception as error:  # PEFT's own, for a file that is somebody else's
            self.drop_role(role)
            if isinstance(error, torch.OutOfMemoryError):  # of a GPU
                raise
            raise UserError(f"{folder}: this adapter does not fit {self.name} ({first_line(error)}); {advice}") \
                from None

    def fill_role(self, role: str, folder: Path) -> None:
        """Copy the weights of a PEFT folder into a role that exists.

        Raises ValueError where names or shapes differ, and UserError for numbers that are not finite.
        """
        stored = read_weights(folder)
        check_file(folder, stored)
        parameters = role_parameters(self.base, role)
        weights = convert_names(self._peft, self._peft.peft_config[role], stored, parameters)
        self._set_adapter(role, fitting_weights(weights, parameters, self.base))
        if role in self.heads:
            head = read_head(folder)
            check_file(folder, head)
            self.heads[role].load_state_dict(head)

    def new_head(self, role: str, *, members: int = 1, zero: bool = False, seed: int = 0) -> ScalarHead:
        """Give a role a new scalar head (`ScalarHead`), and return it."""
        generator = torch.Generator().manual_seed(seed)
        head = ScalarHead(self.hidden_size, members=members, zero=zero, generator=generator).to(self.device)
        self.heads[role] = head
        self._parameters.clear()
        self._apply_flags()
        return head

    def drop_role(self, role: str) -> None:
        """Take a role away, adapter and head. Nothing happens if there is no such role."""
        self._parameters.clear()
        if self.peft and role in self.peft.peft_config:
            if len(self.peft.peft_config) == 1:
                self._unwrap()
            else:
                self._forget(role)
                self._choose(None if self._active == role else self._active)
        self.heads.pop(role, None)
        self._trainable.discard(role)
        self._apply_flags()

    def save_role(self, role: str, folder: str | Path) -> None:
        """Write `folder` in PEFT's format, with the head and the base's fingerprint beside it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = lora_values(self._peft.peft_config[role])
        (folder / CONFIG_FILE).write_text(json_text(values, indent=2, sort_keys=True), encoding="utf-8")
        write_weights(folder, role_parameters(self.base, role))
        save_beside(folder, self.heads.get(role), self.name, self.fingerprint)

    # -- using roles -------------------------------------------------------------------------------------------------

    @contextmanager
    def use(self, role: str | None) -> Iterator[Self]:
        """Run everything inside under `role`. None, or a reference without an adapter, is the bare base.

        Raises KeyError for a role that does not exist.
        """
        before = self._active
        if role in self.roles:
            self._choose(role)
        elif role in (None, "reference"):
            self._choose(None)
        else:
            raise KeyError(f"there is no role {role!r}; there are {', '.join(self.roles) or 'none'}")
        try:
            yield self
        finally:
            self._choose(before)

    def train(self, *roles: str) -> None:
        """Make exactly these roles trainable, adapters and heads. Every other parameter is frozen."""
        self._trainable = set(roles)
        self._apply_flags()

    @property
    def trainable(self) -> list[str]:
        """Names of the roles that are trainable."""
        return sorted(self._trainable)

    def named_parameters(self, role: str) -> dict[str, nn.Parameter]:
        """Parameters of a role under the names they have in PEFT's files, those of the head as `head.*`."""
        parameters = role_parameters(self.base, role)
        if role in self.heads:
            for name, parameter in self.heads[role].named_parameters():
                parameters[HEAD_PREFIX + name] = parameter
        return parameters

    def parameters(self, role: str) -> list[nn.Parameter]:
        """Parameters of a role, adapter and head."""
        if role not in self._parameters:
            self._parameters[role] = list(self.named_parameters(role).values())
        return self._parameters[role]

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _peft(self) -> Any:
        if self.peft is None:
            raise KeyError("there are no roles yet")
        return self.peft

    def _add(self, role: str, config: LoraConfig, *, seed: int | None = None) -> None:
        """Make a role's layers. Without a `seed` their weights have no memory yet, and `_set_adapter` must follow.

        If PEFT raises an exception, nothing has changed.
        """
        if role in self.roles:
            raise KeyError(f"there is a role {role!r} already")
        self._parameters.clear()
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns about fan_in_fan_out, which it then sets right
            torch.manual_seed(seed or 0)
            try:
                self.peft = add_layers(self.peft or self.base, role, config, empty=seed is None)
            except BaseException:
                if set(self.roles) <= {role}:
                    self._unwrap()
                else:
                    self._forget(role)
                raise
        self._peft.peft_config[role].base_model_name_or_path = self.name  # PEFT puts the folder it was loaded from
        self._switch_dropout_off()
        self._list_layers()
        for layer in self._layers:
            speed_up(layer)
        self._choose(self._active)
        self._apply_flags()

    def _list_layers(self) -> None:
        self._layers = list(lora_layers(self.base).values())

    def _forget(self, role: str) -> None:
        """Take a role out of the layers, of which others are left."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns that it was the active one
            if role in self.roles:
                self._peft.delete_adapter(role)
            forget_role(self.base, role)
        self._list_layers()

    @torch.no_grad()
    def _set_adapter(self, role: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy weights into all parameters of a role, which get memory if they have none."""
        parameters = role_parameters(self.base, role)
        if any(parameter.is_meta for parameter in parameters.values()):
            make_room(self.base, role, self.device)
            parameters = role_parameters(self.base, role)
            self._parameters.clear()
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
        self._apply_flags()

    def _unwrap(self) -> None:
        """The bare base again."""
        remove_layers(self.base)
        if hasattr(self.base, "peft_config"):  # else PEFT takes the roles that are gone for roles of the next wrapper
            del self.base.peft_config
        self.peft, self._active, self._layers = None, None, []

    def _choose(self, role: str | None) -> None:
        """Make `role` the active one; None is the bare base.

        This is what PEFT's `set_adapter` and `enable_adapters` do, without their walk over every weight of every
        adapter to set its flag. It costs microseconds a layer, and a chat chooses twice per token.
        """
        self._active = role
        for layer in self._layers:
            layer._disable_adapters = role is None
            if role is not None:
                layer._active_adapter = [role]

    def _apply_flags(self) -> None:
        for role in self.roles:
            for parameter in self.parameters(role):
                parameter.requires_grad_(role in self._trainable)
        for role, head in self.heads.items():
            head.requires_grad_(role in self._trainable)
