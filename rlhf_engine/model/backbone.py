"""One frozen base model; policy, reference, reward and value are LoRA adapters (and scalar heads) on it.

`Backbone` alone chooses the active adapter and owns every `requires_grad` flag. A role is chosen in a scope that has
to cover forward and backward:

    with backbone.use("policy"):
        loss = ...
        loss.backward()

PEFT's own `set_adapter` makes the chosen adapter trainable and freezes the others, so a reference becomes trainable
and a policy loses its gradient when a value pass comes between its forward and its backward. Here the flags belong to
the role and never change with the choice.
"""

import json
import math
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from rlhf_engine.errors import UserError, first_line
from rlhf_engine.model.fast_layers import is_small, speed_up, unpack, use_frozen_norms, use_short_rows
from rlhf_engine.model.loading import load_base, stop_ids
from rlhf_engine.model.logit_transform import read_shaping
from rlhf_engine.runs.resolve import check_adapter, fingerprint


class ScalarHead(nn.Module):
    """A linear read-out of one number per position, kept outside PEFT and in fp32: `gain * (h @ weight + bias) + shift`.

    Initialised with standard deviation 1/sqrt(d+1) and bias 0 (Ziegler et al. 2019); `zero` starts at 0 everywhere,
    as a value function without a reward model to start from does. With several `members` it is an ensemble, each member
    with a weight, a bias, a gain and a shift of its own, and the number is their mean.
    """

    def __init__(self, size: int, *, members: int = 1, zero: bool = False, generator: torch.Generator | None = None):
        super().__init__()
        weight = torch.zeros(members, size) if zero else torch.randn(members, size, generator=generator) / math.sqrt(size + 1)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(members))
        self.register_buffer("gain", torch.ones(members))
        self.register_buffer("shift", torch.zeros(members))

    def members(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., d] in any dtype -> [..., members] in fp32."""
        return self.gain * (hidden.float() @ self.weight.T + self.bias) + self.shift

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., d] in any dtype -> [...] in fp32, the mean of the members."""
        return self.members(hidden).mean(-1)


def read_lora(folder: Path) -> LoraConfig:
    """The configuration of a PEFT folder. Raises UserError for any but a plain LoRA adapter."""
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # whatever PEFT makes of a file that is not its own
        raise UserError(f"{folder}: its adapter_config.json cannot be read ({first_line(error)}); name another adapter") from None
    if not isinstance(config, LoraConfig) or config.modules_to_save:
        raise UserError(f"{folder}: only plain LoRA adapters are supported, without modules_to_save; export it as one")
    return config


class Backbone:
    """A frozen base with its tokenizer and its roles. Make one with `Backbone.load`."""

    def __init__(self, base, tokenizer, *, name: str, path: Path, dtype: str):
        self.base, self.tokenizer, self.name, self.path, self.dtype = base, tokenizer, name, path, dtype
        self.fingerprint = fingerprint(path)
        self.peft: PeftModel | None = None
        self.heads = nn.ModuleDict()
        self._trainable: set[str] = set()
        self._active: str | None = None
        self._owned: dict[str, list[nn.Parameter]] = {}
        """Parameters of each role, kept because finding them walks the whole model."""
        self._layers: list[BaseTunerLayer] = []
        base.requires_grad_(False)
        use_short_rows(base)
        use_frozen_norms(base)
        if is_small(base):
            unpack(base)
        self._settle()
        self.stop_ids = stop_ids(base, tokenizer)
        self.pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.stop_ids[0]
        self.shaping = read_shaping(base, self.hidden, name)

    @classmethod
    def load(cls, model: str = "bundled", *, dtype: str = "auto", device: str = "auto") -> "Backbone":
        """Load a base, frozen. Raises UserError for a missing, gated or pickled model, for a format this machine lacks, and for logits that
        `read_shaping` refuses."""
        base, tokenizer, path, dtype = load_base(model, dtype, device)
        return cls(base, tokenizer, name=str(model), path=path, dtype=dtype)

    # -- the base ----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.base.get_input_embeddings().weight.device

    @property
    def hidden_size(self) -> int:
        """d, the width of the last hidden states."""
        return self.base.get_output_embeddings().in_features

    @property
    def vocabulary(self) -> int:
        return self.base.get_output_embeddings().weight.shape[0]

    @property
    def longest(self) -> int:
        """Positions the base knows; a very large number for models that do not say."""
        text = self.base.config.get_text_config()
        return getattr(text, "max_position_embeddings", None) or 1 << 30

    def hidden(self, ids: torch.Tensor, **options) -> torch.Tensor:
        """Last hidden states [B, T, d] (after the final norm) of right-padded `ids` [B, T] under the role in use.

        A causal model cannot see padding on the right, so no mask is needed and none can be wrong.
        """
        return self.base.get_decoder()(input_ids=ids, use_cache=False, **options).last_hidden_state

    def depths(self, ids: torch.Tensor, **options) -> list[torch.Tensor]:
        """Three hidden states [B, T, d] of right-padded `ids` under the role in use: the embeddings, the middle, the end (normed)."""
        states = self.base.get_decoder()(input_ids=ids, use_cache=False, output_hidden_states=True, **options).hidden_states
        return [states[0], states[len(states) // 2], states[-1]]

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [..., V], in fp32, of hidden states [..., d]."""
        return self.shaping(self.base.get_output_embeddings()(hidden))

    def _settle(self) -> None:
        """Dropout off everywhere, except that 4-bit layers stay in training mode.

        bitsandbytes on a CPU repacks a `Linear4bit` for good at its first forward in eval mode without gradients,
        into a layout whose gradients are silently wrong. `Linear4bit` has no dropout, so training mode costs nothing.
        """
        self.base.eval()
        for module in self.base.modules():
            if type(module).__name__ == "Linear4bit":
                module.training = True

    @contextmanager
    def checkpointing(self, enabled: bool = True):
        """Gradient checkpointing for the length of an update; never during sampling, whose KV cache it would switch off."""
        layers = [m for m in self.base.modules() if isinstance(m, GradientCheckpointingLayer)] if enabled else []
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

    # -- roles -------------------------------------------------------------------------------------------------------

    @property
    def roles(self) -> list[str]:
        return list(self.peft.peft_config) if self.peft else []

    def new_role(self, role: str, *, rank: int = 8, alpha: int = 16, seed: int = 0) -> None:
        """A fresh adapter on every linear layer but the output layer: random A, zero B, so the base's own output.

        Raises UserError for an architecture whose layers are not all multiplied by LoRA's (Mamba's read their weights directly).
        """
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", lora_dropout=0.0, bias="none",
                            task_type="CAUSAL_LM", base_model_name_or_path=self.name)
        try:
            self._add(role, config, seed)
        except ValueError as error:
            raise UserError(f"{self.name}: LoRA does not fit this architecture ({first_line(error)}); choose a transformer, "
                            "such as Llama, Qwen, Mistral or GPT-2") from None

    def copy_role(self, role: str, of: str) -> None:
        """A new adapter equal to `of`, its head included. It is frozen until `train` names it."""
        held = self.peft.peft_config[of]
        self._add(role, LoraConfig(**{k: getattr(held, k) for k in ("r", "lora_alpha", "target_modules", "lora_dropout",
                                      "bias", "task_type", "base_model_name_or_path", "fan_in_fan_out")}), seed=0)
        source = self.named_parameters(of)
        with torch.no_grad():
            for name, parameter in self.named_parameters(role).items():
                if not name.startswith("head."):
                    parameter.copy_(source[name])
        if of in self.heads:
            self.new_head(role, members=len(self.heads[of].bias))
            self.heads[role].load_state_dict(self.heads[of].state_dict())

    def load_role(self, role: str, folder: str | Path, *, head: bool | None = None) -> None:
        """An adapter (and its head, where there is one) from a PEFT folder. Raises UserError if it was made for another base.

        `head=True` demands a head, `False` leaves one aside.
        """
        folder = Path(folder)
        check_adapter(folder, self.fingerprint)
        config = read_lora(folder)
        config.base_model_name_or_path, config.inference_mode = self.name, False
        has_head = (folder / "head.safetensors").exists()
        if head and not has_head:
            raise UserError(f"{folder}: holds an adapter but no scalar head; name a reward run")
        try:
            self._add(role, config, seed=0)
            if has_head and head is not False:
                self.new_head(role, members=len(load_file(folder / "head.safetensors")["bias"]))
            self.fill_role(role, folder)
        except (ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
            self.drop_role(role)
            raise UserError(f"{folder}: this adapter does not fit {self.name} ({first_line(error)})") from None

    @torch.no_grad()
    def fill_role(self, role: str, folder: Path) -> None:
        """Copy the weights of a PEFT folder into a role that exists. Raises ValueError where names or shapes differ."""
        weights = load_file(folder / "adapter_model.safetensors")
        found = {name.removeprefix("base_model.model."): value for name, value in weights.items()}
        known = {n: p for n, p in self.named_parameters(role).items() if not n.startswith("head.")}
        if set(found) != set(known):
            raise ValueError(f"its weights and its layers differ, first at {min(set(found) ^ set(known))}")
        for name, parameter in known.items():
            if parameter.shape != found[name].shape:
                raise ValueError(f"{name} has shape {tuple(found[name].shape)}, the base needs {tuple(parameter.shape)}")
            parameter.copy_(found[name])
        if role in self.heads:
            self.heads[role].load_state_dict(load_file(folder / "head.safetensors"))

    def drop_role(self, role: str) -> None:
        self._owned.clear()
        if self.peft and role in self.peft.peft_config:
            if len(self.peft.peft_config) == 1:
                self.base, self.peft, self._active, self._layers = self.peft.unload(), None, None, []
            else:
                self.peft.delete_adapter(role)
                self._choose(None if self._active == role else self._active)
        if role in self.heads:
            self.heads.pop(role)
        self._trainable.discard(role)
        self._apply_flags()

    def new_head(self, role: str, *, members: int = 1, zero: bool = False, seed: int = 0) -> ScalarHead:
        generator = torch.Generator().manual_seed(seed)
        self.heads[role] = ScalarHead(self.hidden_size, members=members, zero=zero, generator=generator).to(self.device)
        self._owned.clear()
        self._apply_flags()
        return self.heads[role]

    def train(self, *roles: str) -> None:
        """Make exactly these roles trainable, adapters and heads; every other parameter is frozen."""
        self._trainable = set(roles)
        self._apply_flags()

    @contextmanager
    def use(self, role: str | None):
        """Run everything inside under `role`; None, or a reference without an adapter, is the bare base."""
        before = self._active
        self._choose(role if role in self.roles else self._bare(role))
        try:
            yield self
        finally:
            self._choose(before)

    def named_parameters(self, role: str) -> dict[str, nn.Parameter]:
        """Parameters of a role under the names they have in PEFT's files, the head's as `head.*`."""
        marker = f".{role}."
        found = {n.replace(marker, "."): p for n, p in self.base.named_parameters() if "lora_" in n and marker in n}
        if role in self.heads:
            found |= {f"head.{n}": p for n, p in self.heads[role].named_parameters()}
        return found

    def parameters(self, role: str) -> list[nn.Parameter]:
        if role not in self._owned:
            self._owned[role] = list(self.named_parameters(role).values())
        return self._owned[role]

    def save_role(self, role: str, folder: str | Path) -> None:
        """Write `folder` in PEFT's format, with `head.safetensors` and the base's fingerprint beside it."""
        folder = Path(folder)
        self.peft.save_pretrained(str(folder.parent), selected_adapters=[role], save_embedding_layers=False)
        if folder.name != role:
            (folder.parent / role).rename(folder)
        (folder.parent / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        config["target_modules"] = sorted(config["target_modules"])  # a set, whose order is another one in every process
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")
        if role in self.heads:
            save_file({k: v.detach().cpu().contiguous() for k, v in self.heads[role].state_dict().items()},
                      str(folder / "head.safetensors"))
        text = json.dumps({"model": self.name, "fingerprint": self.fingerprint}, indent=1)
        (folder / "base.json").write_text(text + "\n", encoding="utf-8")

    # -- inside ------------------------------------------------------------------------------------------------------

    def _bare(self, role: str | None) -> None:
        if role not in (None, "reference"):
            raise KeyError(f"there is no role {role!r}; there are {', '.join(self.roles) or 'none'}")

    def _add(self, role: str, config: LoraConfig, seed: int) -> None:
        if role in self.roles:
            raise KeyError(f"there is a role {role!r} already")
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT remarks on fan_in_fan_out, which it then sets right
            torch.manual_seed(seed)
            self._owned.clear()
            if self.peft is None:
                self.peft = get_peft_model(self.base, config, adapter_name=role, autocast_adapter_dtype=True)
            else:
                self.peft.add_adapter(role, config, autocast_adapter_dtype=True)
        self.peft.peft_config[role].base_model_name_or_path = self.name  # PEFT puts the folder it was loaded from
        for parameter in self.parameters(role):
            parameter.data = parameter.data.float()
        self._settle()
        self._layers = [layer for layer in self.base.modules() if isinstance(layer, BaseTunerLayer)]
        for layer in self._layers:
            speed_up(layer)
        self._choose(self._active)
        self._apply_flags()

    def _choose(self, role: str | None) -> None:
        """What PEFT's `set_adapter` and `enable_adapters` do, without their walk over every weight of every adapter to flip
        its flag: a choice costs microseconds a layer, and a chat makes two per token."""
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
