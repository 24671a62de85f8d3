"""What a run takes of memory, computed from the model's config.json and the run's settings. No model is loaded.

Symbols: N rows x tokens of a micro-batch; e bytes per number of the base (4 in fp32, else 2); V the vocabulary; L
blocks of width d, with H heads and G groups of size h and an MLP of width f; r the rank of the adapters. Tests compare
the arithmetic with what autograd really keeps; benchmarks/README.md compares it with measured peaks.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from rlhf_engine.config import RunConfig
from rlhf_engine.errors import UserError
from rlhf_engine.stages import MemoryProfile, default_adapter, find_stage

GATED = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "gemma", "phi3")
PLAIN = ("gpt2", "gpt_neox")
"""Model types whose memory is known: with a gated MLP and RMS norms, and with a plain MLP, layer norms and biases."""
TIED = ("gpt2", "gemma")
"""Types whose output layer is the embedding where the config does not say."""
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes per weight in NF4: four bits, one byte of scale for 64 weights, and a scale of that scale for 256 blocks."""
SHORT, SMALL, PACKED, LANDMARKS = 256, 100_000_000, 5, 1024
"""As in `model.fast_layers` and `teach.word_features`, which import torch."""
RUNTIME = {"cpu": 480 << 20, "cuda": 600 << 20}
"""Python, torch and the libraries in the training process; on a GPU its CUDA context (not yet measured)."""
SLACK = {"cpu": 1.2, "cuda": 1.0}
"""What rollout and update take, over the sum of their tensors: a CPU's allocator leaves gaps (benchmarks/README.md)."""
FULL_SLACK = {"cpu": {"fp32": 2.2, "bf16": 1.8, "nf4": 1.8}, "cuda": {"fp32": 1.0, "bf16": 1.0, "nf4": 1.0}}
"""The same of an update whose passes are all as large as they may be. Where they are not limited, `SLACK` is right on
average: it counts rows of the longest length, and few rows are so long (benchmarks/README.md)."""
WORKSPACE = {"cpu": 3 << 20, "cuda": 192 << 20}
"""Bytes of the slices in which softmaxes are computed (`logprobs.slice_size`, three of them in fp32)."""


@dataclass(frozen=True)
class Shape:
    """What the arithmetic needs of an architecture."""

    kind: str
    layers: int
    width: int
    heads: int
    groups: int
    head: int
    inner: int
    vocabulary: int
    tied: bool
    linears: tuple[tuple[int, int], ...]
    """(in, out) of the linear layers of a block. Each gets an adapter, and in NF4 four bits a weight."""
    rest: int
    """Parameters outside of these layers and of the embeddings: norms, biases, positions."""
    longest: int
    """Positions that the model knows."""

    @property
    def embeddings(self) -> int:
        """Parameters of embedding and output layer; one of them where they are tied. They are never quantised."""
        return self.vocabulary * self.width * (1 if self.tied else 2)

    @property
    def blocks(self) -> int:
        """Parameters of the linear layers of all blocks."""
        return self.layers * sum(i * o for i, o in self.linears)

    @property
    def parameters(self) -> int:
        return self.embeddings + self.blocks + self.rest

    def adapter(self, rank: int) -> int:
        """Parameters of a LoRA adapter on all linear layers but the output layer: r (in + out) for each."""
        return self.layers * sum(rank * (i + o) for i, o in self.linears)

    def weights(self, dtype: str) -> int:
        """Bytes of the frozen base."""
        if dtype == "nf4":
            return round(NF4 * self.blocks + 2 * (self.embeddings + self.rest))
        return (4 if dtype == "fp32" else 2) * self.parameters


@dataclass(frozen=True)
class Estimate:
    """Bytes at the peak, by purpose.

    Rollout and update take turns. On a GPU the larger of the two counts. On a CPU both do, because its allocator gives
    little of its memory back to the system.
    """

    base: int
    """Weights of the frozen base."""
    policy: int
    """The adapter of the role in fp32 (4 bytes a parameter) and a head of its own. A trained role takes 12 bytes more
    for its gradient and Adam's two moments, and a bf16 copy where the base is not fp32. The other roles likewise."""
    reference: int
    reward: int
    value: int
    rollout: int
    """KV cache (2 L G h numbers a token) and the distribution over V for each row. On a CPU also the fast decoder's
    copy of the weights (up to 100M parameters in fp32, up to 500M in the base's format, bf16 for a base in 4 bits), and
    a second cache while rows that have ended leave the first."""
    update: int
    """Activations of a micro-batch for its backward pass: L (4 d + 2 H h + 2 G h + 4 f) N e in a gated model, L d N e
    and one block's with gradient checkpointing. Also the logits of the positions that are read at a time."""
    runtime: int
    device: str

    @property
    def parts(self) -> dict[str, int]:
        """The total, by part."""
        sizes = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "device"}
        if self.device != "cpu":
            smaller = "rollout" if sizes["rollout"] <= sizes["update"] else "update"
            sizes[smaller] = 0
        return sizes

    @property
    def total(self) -> int:
        return sum(self.parts.values())


# -- the model -------------------------------------------------------------------------------------------------------

def read_shape(config: dict, name: str = "the model") -> Shape:
    """The shape in the mapping of a config.json. Raises UserError for an architecture of unknown memory."""
    kind = config.get("model_type", "")
    if kind not in (*GATED, *PLAIN):
        raise UserError(f"{name}: the memory of a model of type {kind or 'unknown'!r} is not known before it is "
                        f"loaded; known are {', '.join((*GATED, *PLAIN))}")
    try:
        return _shape(config, kind)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{name}: its config.json does not say how large it is ({error}); check the file") from None


def _shape(config: dict, kind: str) -> Shape:
    """Raises KeyError, TypeError and ZeroDivisionError for a config that lacks a size or has none that makes sense."""
    d = config.get("hidden_size") or config["n_embd"]
    layers = config.get("num_hidden_layers") or config["n_layer"]
    heads = config.get("num_attention_heads") or config["n_head"]
    groups, head = config.get("num_key_value_heads") or heads, config.get("head_dim") or d // heads
    inner = config.get("intermediate_size") or config.get("n_inner") or 4 * d
    longest = config.get("max_position_embeddings") or config.get("n_positions") or 1 << 30
    vocabulary = config["vocab_size"]
    for number in (d, layers, heads, groups, head, inner, longest, vocabulary):
        if not isinstance(number, int) or number < 1:
            raise TypeError(f"{number!r} is no size")
    q, kv, biased = heads * head, groups * head, bool(config.get("attention_bias", kind == "qwen2"))
    if kind in PLAIN:
        linears = ((d, 3 * d), (d, d), (d, inner), (inner, d))
        rest = layers * (9 * d + inner) + 2 * d + (longest * d if kind == "gpt2" else 0)
    else:
        inputs = ((d, q + 2 * kv),) if kind == "phi3" else ((d, q), (d, kv), (d, kv))
        mlp = ((d, 2 * inner),) if kind == "phi3" else ((d, inner), (d, inner))
        linears = (*inputs, (q, d), *mlp, (inner, d))
        norms = {"qwen3": 2 * head, "olmo2": q + kv}.get(kind, 0)
        biases = (q + 2 * kv if biased else 0) + (d if biased and kind != "qwen2" else 0)
        rest = layers * (2 * d + norms + biases) + d
    tied = bool(config.get("tie_word_embeddings", kind in TIED))
    return Shape(kind, layers, d, heads, groups, head, inner, vocabulary, tied, linears, rest, longest)


def read_model(folder: Path, name: str = "") -> dict:
    """The mapping in the config.json of a folder. Raises UserError."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{name or folder}: its config.json cannot be read ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{name or folder}: its config.json holds no settings; check the file")
    return config


# -- the run ---------------------------------------------------------------------------------------------------------

def estimate(config: RunConfig, shape: Shape, *, device: str = "cpu", tokens: int = 0,
             pass_tokens: int = 0) -> Estimate:
    """The peak of a run with these settings.

    Args:
        config: the settings.
        shape: of the model.
        device: cpu or cuda; it decides what `dtype: auto` means.
        tokens: of the longest row, prompt and response together. Where it is not known (0), rows are as long as
            `max_tokens` and the model allow.
        pass_tokens: the most tokens that a pass reads (`memory.passes`); 0 sets no limit.
    """
    dtype = number_format(config, device)
    slack = FULL_SLACK[device][dtype] if pass_tokens else SLACK[device]
    longest = longest_row(config, shape, tokens)
    small = device == "cpu" and shape.parameters <= SMALL
    base = shape.weights(dtype)
    if small and dtype == "nf4":
        base += 2 * shape.blocks
    return Estimate(
        base=base, **roles(config, shape, dtype),
        rollout=round(SLACK[device] * rollout(config, shape, dtype, longest, device)),
        update=round(slack * update(config, shape, dtype, device, longest, pass_tokens)),
        runtime=RUNTIME[device], device=device)


def number_format(config: RunConfig, device: str) -> str:
    """The number format of the base, with what `auto` means on a device spelled out."""
    if config.dtype != "auto":
        return config.dtype
    return "fp32" if device == "cpu" else "bf16"


def longest_row(config: RunConfig, shape: Shape, tokens: int = 0) -> int:
    """Tokens of the longest row of a run. `tokens` is that of its data, where it is known."""
    return min(tokens or config.max_tokens, config.max_tokens, shape.longest)


def roles(config: RunConfig, shape: Shape, dtype: str) -> dict[str, int]:
    """Bytes of each role of the stage: adapter and head; of a trained role also its gradient and Adam's moments."""
    adapter, head = shape.adapter(config.lora_rank), shape.width + 1
    copy = 0 if dtype == "fp32" else 2 * adapter
    frozen, trained = 4 * adapter, 16 * adapter + copy
    profile = find_stage(config.stage).memory
    started = default_adapter(config) not in ("none", "")
    sizes: dict[str, int] = dict.fromkeys(("policy", "reference", "reward", "value"), 0)
    sizes[profile.trained] = trained
    if profile.trained == "reward":
        sizes["reward"] += 16 * getattr(config, "ensemble", 1) * head
        sizes["policy"] = frozen if started else 0
    if profile.reference:
        sizes["reference"] = frozen if started else 0
    if hasattr(config, "value"):
        sizes["value"] = 16 * head + (trained if getattr(config, "value", "") == "adapter" else 0)
    if profile.reward_adapter:
        sizes["reward"] = frozen + 4 * head
    if profile.reads_base_states:  # the landmarks of the live reward, and the weights of its members
        sizes["reward"] = 4 * 2 * LANDMARKS * (shape.width + getattr(config, "ensemble", 1))
    return sizes


def rollout(config: RunConfig, shape: Shape, dtype: str, longest: int, device: str) -> int:
    """Bytes while responses are sampled; 0 for a stage that samples none."""
    rows = find_stage(config.stage).memory.sampled(config)
    if not rows:
        return 0
    e = 4 if dtype == "fp32" else 2
    cache = 2 * shape.layers * shape.groups * shape.head * rows * longest * e
    weights = decoder_weights(shape, dtype) if device == "cpu" else 0
    spare = 0.75 * cache if weights else cache / shape.layers
    return round(cache + spare + weights + rows * shape.vocabulary * (e + 3 * 4))


def decoder_weights(shape: Shape, dtype: str) -> int:
    """Bytes of the copy of the weights that decodes on a CPU; 0 for a model that transformers decodes."""
    if shape.kind not in ("llama", "mistral", "qwen2", "qwen3") or shape.parameters > PACKED * SMALL:
        return 0
    output = shape.vocabulary * shape.width
    if shape.parameters <= SMALL:  # in fp32, and the embedding, too, where the base has it in another format
        return 4 * (shape.blocks + output * (1 if dtype == "fp32" else 2))
    return (4 if dtype == "fp32" else 2) * (shape.blocks + output)


def update(config: RunConfig, shape: Shape, dtype: str, device: str, longest: int, pass_tokens: int = 0) -> int:
    """Bytes of the largest pass over whole rows: backward over a micro-batch, or forward over more rows."""
    e = 4 if dtype == "fp32" else 2
    profile = find_stage(config.stage).memory
    batch = config.batch_size * profile.rows_per_example
    trained = -(-batch // getattr(config, "minibatches", 1)) if profile.online else batch
    most = config.micro_batch * profile.rows_per_example or batch
    answer = min(getattr(config, "max_new_tokens", longest), longest) if profile.online else longest
    if pass_tokens:
        most = min(most, max(profile.rows_per_example, pass_tokens // longest))
    rows, more = min(trained, most), min(batch, most)

    def backward_bytes(rows: int, tokens: int, answer: int) -> int:
        kept = activations(shape, e, rows, tokens, device, config)
        return kept + head_bytes(shape, e, rows * answer, device, config)

    backward = backward_bytes(rows, longest, answer)
    if getattr(config, "ptx_coef", 0):  # a pass of its own, over rows that may be longer
        texts, row = _ptx_rows(config, shape)
        texts = min(texts, max(1, pass_tokens // row)) if pass_tokens else texts
        backward = max(backward, backward_bytes(texts, row, row))
    forward = transient_bytes(shape, e, more, longest) + head_bytes(shape, e, more * answer, device, config)
    if profile.reads_base_states:  # the live reward reads all states of the base and compares words with landmarks
        states, similarities = (shape.layers + 2) * batch * longest * shape.width * e, 16 * LANDMARKS * batch * answer
        forward = max(forward, states + similarities)
    return max(backward, forward)


def _ptx_rows(config: RunConfig, shape: Shape) -> tuple[int, int]:
    """(rows, tokens of the longest) of a micro-batch of the text that PPO mixes in."""
    rows = getattr(config, "ptx_rows", 0)
    longest = min(config.max_tokens, shape.longest)
    if (config.model, getattr(config, "ptx_data", "")) == ("bundled", "bundled"):
        longest = min(longest, MemoryProfile().bundled_tokens)
    return min(rows, config.micro_batch or rows), longest


def activations(shape: Shape, e: int, rows: int, longest: int, device: str, config: RunConfig) -> int:
    """Bytes that the backward pass of a micro-batch needs, with the largest gradients in its course."""
    count, block = rows * longest, saved_activations(shape, e, longest, device, config.lora_rank)
    saved = shape.layers * block
    if config.gradient_checkpointing:
        saved = shape.layers * shape.width * e + block
    return count * (saved + 2 * shape.width * e) + transient_bytes(shape, e, rows, longest)


def saved_activations(shape: Shape, e: int, longest: int, device: str, rank: int) -> int:
    """Bytes a token that autograd keeps of one block: the inputs of norms, adapters, attention and MLP products."""
    d, f, q, kv = shape.width, shape.inner, shape.heads * shape.head, shape.groups * shape.head
    low = rank * len(shape.linears)
    if shape.kind in PLAIN:  # a GELU that is written out keeps five tensors
        numbers = 4 * d + q + 3 * q + 5 * f + low
    else:
        norms = q + kv if shape.kind in ("qwen3", "olmo2") else 0
        numbers = 4 * d + 2 * q + 2 * kv + 4 * f + low + norms
    if e == 2 and device == "cpu" and longest <= SHORT:  # attention in plain products, which repeats the groups
        repeated = 2 * (q - kv if shape.kind in GATED else 0)
        return e * (numbers + repeated + shape.heads * longest) + 8
    return e * numbers + 4 * shape.heads + 8


def transient_bytes(shape: Shape, e: int, rows: int, longest: int) -> int:
    """Bytes that come and go within one block: three wide tensors of the MLP, and a few of width d in fp32."""
    return rows * longest * (3 * shape.inner * e + 3 * shape.width * 4)


def head_bytes(shape: Shape, e: int, answer: int, device: str, config: RunConfig) -> int:
    """Bytes to read `answer` tokens: states, their gradients, and the logits of a chunk of positions.

    `logprobs.chunk_size` is that chunk. A reward model has no logits.
    """
    if not find_stage(config.stage).memory.logits:
        return 0
    size = max(64, (1 << 22 if device == "cpu" else 1 << 27) // shape.vocabulary)
    chunks = 2 if getattr(config, "entropy_coef", 0) else 1  # the gradient of the entropy has a second one
    return 2 * answer * shape.width * e + chunks * min(answer, size) * shape.vocabulary * e + WORKSPACE[device]
