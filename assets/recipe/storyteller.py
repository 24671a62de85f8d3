"""The storyteller as a model: its tokenizer, its shape, its loss, and its bits per character."""

import copy
import hashlib
import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STORY, END, PAD, USER, ASSISTANT = "<|story|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + m['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(stories: list[str], vocabulary: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[PAD, STORY, END, USER, ASSISTANT],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(stories, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{STORY} $A", pair=f"{STORY} $A $B", special_tokens=[(STORY, tokenizer.token_to_id(STORY))])
    return tokenizer


def wrap_tokenizer(tokenizer: Tokenizer, context: int) -> PreTrainedTokenizerFast:
    """The tokenizer with its special tokens and chat template, as transformers knows it."""
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=STORY, eos_token=END, pad_token=PAD,
                                   additional_special_tokens=[USER, ASSISTANT], model_max_length=context,
                                   clean_up_tokenization_spaces=False, padding_side="left")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_config(tokenizer, hidden: int, layers: int, heads: int, intermediate: int, context: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=intermediate, max_position_embeddings=context,
        tie_word_embeddings=True, rms_norm_eps=1e-5, initializer_range=0.02,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)


@torch.no_grad()
def grow_depth(model: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """A deeper model that computes the same function.

    The new layers are copies, spread evenly, and add nothing to the residual stream at first: the matrices that write
    into it are zero (Wu et al. 2024, "LLaMA Pro").
    """
    old = model.config.num_hidden_layers
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    grown = LlamaForCausalLM(config)
    copied_before = set()
    layer: Any
    for index in range(layers):
        origin = index * old // layers
        layer = grown.model.layers[index]
        state = model.model.layers[origin].state_dict()
        layer.load_state_dict(state)
        if origin in copied_before:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        copied_before.add(origin)
    grown.model.embed_tokens.load_state_dict(model.model.embed_tokens.state_dict())
    grown.model.norm.load_state_dict(model.model.norm.state_dict())
    return grown


def load_start(folder: str, layers: int, context: int) -> tuple[PreTrainedTokenizerFast, LlamaForCausalLM, dict]:
    """Tokenizer, model and a record of a model to start from; it gets more layers if `layers` asks for them."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer = wrap_tokenizer(Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), context)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    record = {"sha256": hashlib.sha256((Path(folder) / "model.safetensors").read_bytes()).hexdigest(),
              "layers": model.config.num_hidden_layers}
    if layers > model.config.num_hidden_layers:
        model = grow_depth(model, layers)
    return tokenizer, model, record


def add_dropout(model: LlamaForCausalLM, rate: float) -> None:
    """Dropout of channels of attention and MLP outputs, the same for all tokens of a row; Llama itself has none.

    One mask per row ("locked", Gal and Ghahramani 2016) costs nothing; one per token is a fifth of a step's time on a
    CPU.
    """
    def locked(hidden, training):
        return hidden * F.dropout(torch.ones_like(hidden[:, :1]), rate, training)

    def drop(module, _, output):
        if isinstance(output, tuple):
            return (locked(output[0], module.training), *output[1:])
        return locked(output, module.training)
    layer: Any
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)


def padded(pieces: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, first position that counts) of each row -> ids and mask [B, T], padded on the right."""
    width = max(len(ids) for ids, _ in pieces)
    batch = torch.zeros(len(pieces), width, dtype=torch.long)
    mask = torch.zeros(len(pieces), width, dtype=torch.bool)
    for row, (ids, start) in enumerate(pieces):
        batch[row, :len(ids)] = torch.tensor(ids)
        mask[row, start:len(ids)] = True
    return batch, mask


def nll(model, inputs, ids, mask):
    """Summed negative log-likelihood of the masked tokens, in nats; padding is on the right, so causality suffices.

    `inputs` is what the model reads, `ids` what it should have read and has to predict.
    """
    logits = model.lm_head(model.model(inputs[:, :-1], use_cache=False).last_hidden_state)
    targets = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")


@torch.no_grad()
def bits_per_character(model, tokenizer, stories: list[str], context: int) -> float:
    """Bits for all text tokens (the end token is not charged) over all characters.

    A story that is longer than the context slides by half a context.
    """
    model.eval()
    bits = 0.0
    pieces = []
    for ids in tokenizer(stories)["input_ids"]:
        first = ids[:context + 1]
        pieces.append((first, 1))
        done = len(first)
        while done < len(ids):
            start = done - context // 2
            piece = ids[start:start + context + 1]
            pieces.append((piece, done - start))
            done = start + len(piece)
    pieces.sort(key=lambda piece: len(piece[0]))
    for i in range(0, len(pieces), 16):
        ids, mask = padded(pieces[i:i + 16])
        bits += nll(model, ids, ids, mask).item() / math.log(2)
    return bits / sum(len(story) for story in stories)


@torch.no_grad()
def calibrate(model, tokenizer, stories: list[str], context: int) -> float:
    """Scale the last norm, and with it the logits, by the factor that suits held-out stories best. Return the factor.

    After many epochs a model is too sure. The factor is a temperature (Guo et al. 2017) that needs no setting.
    """
    weight = model.model.norm.weight
    kept, losses = weight.clone(), {}
    for factor in (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82):
        weight.copy_(kept * factor)
        losses[factor] = bits_per_character(model, tokenizer, stories, context)
    best = min(losses, key=lambda factor: losses[factor])
    weight.copy_(kept * best)
    return best


def save_model(model: LlamaForCausalLM, tokenizer, output: str) -> None:
    """bf16 safetensors: what is measured is what is written."""
    written = LlamaForCausalLM(model.config)
    written.load_state_dict(model.state_dict())
    written.bfloat16().save_pretrained(output)
    tokenizer.save_pretrained(output)
