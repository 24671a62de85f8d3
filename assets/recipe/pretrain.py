"""Pre-train the bundled storyteller from scratch: tokenizer, model, measured bits per character.

    python assets/recipe/pretrain.py --data roneneldan/TinyStories --output assets/storyteller
    python assets/recipe/pretrain.py --data train.jsonl.gz --validation validation.jsonl.gz --output assets/storyteller

Whole stories, never windows: every row starts at `<|story|>` with position 0, as it does when the model is used.
Matrices are trained by Muon, embeddings and norms by AdamW; the rate is constant, then falls linearly to zero
at the end. The exponential average of the weights is what is written.

Eight million characters are read a dozen times, and memorising them is what costs quality. Against it: other names each
time (`NameSwap`), whole channels dropped for a whole story, some wrong tokens in the input, weight decay.
"""

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from stories import NameSwap, read_stories
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STORY, END, PAD, USER, ASSISTANT = "<|story|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}{{ '<|assistant|>' }}{% generation %}{{ m['content'] + '<|end|>' }}{% endgeneration %}"
    "{% else %}{{ '<|user|>' + m['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tokenizer(stories: list[str], vocabulary: int, context: int) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=[PAD, STORY, END, USER, ASSISTANT],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(stories, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{STORY} $A", pair=f"{STORY} $A $B", special_tokens=[(STORY, tokenizer.token_to_id(STORY))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=STORY, eos_token=END, pad_token=PAD,
                                   additional_special_tokens=[USER, ASSISTANT], model_max_length=context,
                                   clean_up_tokenization_spaces=False, padding_side="left")
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer, hidden: int, layers: int, heads: int, intermediate: int, context: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=heads, intermediate_size=intermediate, max_position_embeddings=context,
        tie_word_embeddings=True, rms_norm_eps=1e-5, initializer_range=0.02,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return LlamaForCausalLM(config)


def add_dropout(model: LlamaForCausalLM, rate: float) -> None:
    """Dropout of channels of attention and MLP outputs, the same for all tokens of a row; transformers' Llama has none.

    One mask per row ("locked", Gal and Ghahramani 2016) costs nothing; one per token is a fifth of a step's time on a CPU.
    """
    def locked(hidden, training):
        return hidden * F.dropout(torch.ones_like(hidden[:, :1]), rate, training)

    def drop(module, _, output):
        if isinstance(output, tuple):
            return (locked(output[0], module.training), *output[1:])
        return locked(output, module.training)
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(drop)
        layer.mlp.register_forward_hook(drop)


def encode(tokenizer, stories: list[str], context: int) -> list[list[int]]:
    """`<|story|> text <|end|>`; a story longer than the context keeps its start and loses its end token."""
    end = tokenizer.eos_token_id
    return [(ids + [end])[:context + 1] for ids in tokenizer(stories)["input_ids"]]


def batches(rows: list[list[int]], tokens: int, rng: random.Random):
    """One epoch of token-budgeted batches of similar lengths, in random order."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]) + rng.uniform(0, 16))
    groups, group = [], []
    for i in order:
        if group and (len(group) + 1) * len(rows[i]) > tokens:
            groups.append(group)
            group = []
        group.append(i)
    groups.append(group)
    rng.shuffle(groups)
    for group in groups:
        yield padded([(rows[i], 0) for i in group])


def padded(pieces: list[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """(token ids, first position that counts) of each row -> ids and mask [B, T], padded on the right."""
    width = max(len(ids) for ids, _ in pieces)
    batch = torch.zeros(len(pieces), width, dtype=torch.long)
    mask = torch.zeros(len(pieces), width, dtype=torch.bool)
    for row, (ids, start) in enumerate(pieces):
        batch[row, :len(ids)] = torch.tensor(ids)
        mask[row, start:len(ids)] = True
    return batch, mask


def wrong_tokens(ids: torch.Tensor, most: float, vocabulary: int) -> torch.Tensor:
    """Input ids with some replaced by random ones: a share of each row drawn from [0, `most`]; position 0 is kept."""
    wrong = torch.rand(ids.shape) < most * torch.rand(len(ids), 1)
    wrong[:, 0] = False
    return torch.where(wrong, torch.randint(vocabulary, ids.shape), ids)


def nll(model, inputs, ids, mask):
    """Summed negative log-likelihood of the masked tokens, in nats; padding is on the right, so causality suffices.

    `inputs` is what the model reads, `ids` what it should have read and has to predict.
    """
    logits = model.lm_head(model.model(inputs[:, :-1], use_cache=False).last_hidden_state)
    targets = ids[:, 1:].masked_fill(~mask[:, 1:], -100)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="sum")


@torch.no_grad()
def bits_per_character(model, tokenizer, stories: list[str], context: int) -> float:
    """Bits for all text tokens (the end token is not charged) over all characters; long stories slide by half a context."""
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
    """Scale the last norm, and with it the logits, by what suits held-out stories best: after many epochs a model is too sure.

    It is a temperature (Guo et al. 2017) that needs no setting. Returns the factor.
    """
    weight = model.model.norm.weight
    kept, losses = weight.clone(), {}
    for factor in (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82):
        weight.copy_(kept * factor)
        losses[factor] = bits_per_character(model, tokenizer, stories, context)
    best = min(losses, key=losses.get)
    weight.copy_(kept * best)
    return best


def learning_rate(progress: float, decay: float) -> float:
    return min(1.0, progress / 0.01, (1 - progress) / decay)


def train(args) -> None:
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    stories = read_stories(args.data, limit=args.limit)
    rare = set(read_stories(args.data, limit=args.limit, sources=args.rare)) if args.rare else set()
    rng.shuffle(stories)
    held_out, stories = stories[:100], stories[100:]
    swap = NameSwap(stories)
    if args.init:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.init)
        model = LlamaForCausalLM.from_pretrained(args.init, dtype=torch.float32)
    else:
        tokenizer = make_tokenizer(stories, args.vocabulary, args.context)
        model = make_model(tokenizer, args.hidden, args.layers, args.heads, args.intermediate, args.context)
    model.set_attn_implementation("eager")  # compiled, it is faster on short rows than the fused kernel on a CPU
    add_dropout(model, args.dropout)
    loss_of = nll if args.no_compile else torch.compile(nll, dynamic=True)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(args.ema))
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimizers = [torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=args.weight_decay, momentum=0.95),
                  torch.optim.AdamW(others, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters:,} parameters, {len(stories):,} stories, {len(swap.pronoun)} names to swap", flush=True)

    seen, step, epoch, progress, start = 0, 0, 0, 0.0, time.time()
    while progress < 1:
        epoch += 1
        texts = [s for s in stories if s not in rare or rng.random() < 0.5]
        texts = [swap(s, rng) if rng.random() < args.swap else s for s in texts]
        for ids, mask in batches(encode(tokenizer, texts, args.context), args.batch_tokens, rng):
            progress = max(seen / args.tokens, (time.time() - start) / 60 / args.minutes)
            if progress >= 1:
                break
            scale = learning_rate(progress, args.decay)
            for optimizer, rate in zip(optimizers, (args.muon_lr, args.adam_lr)):
                for group in optimizer.param_groups:
                    group["lr"] = rate * scale
            model.train()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, wrong_tokens(ids, args.wrong * scale, len(tokenizer)), ids, mask) / mask[:, 1:].sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            average.update_parameters(model)
            seen, step = seen + int(mask[:, 1:].sum()), step + 1
            if step % 50 == 0:
                print(f"step {step} epoch {epoch} tokens {seen / 1e6:.2f}M loss {loss.item():.3f} "
                      f"{seen / (time.time() - start):.0f} tokens/s", flush=True)
            if step % args.evaluate_every == 0:
                bpc = bits_per_character(average.module, tokenizer, held_out, args.context)
                print(f"step {step} held-out bits per character {bpc:.4f} ({(time.time() - start) / 60:.1f} min)", flush=True)
                save(average.module, tokenizer, args.output)
    factor = calibrate(average.module, tokenizer, held_out, args.context)
    save(average.module, tokenizer, args.output)
    epoch = sum(map(len, encode(tokenizer, stories, args.context)))
    result = {"parameters": parameters, "tokens": seen, "epochs": seen / epoch, "minutes": round((time.time() - start) / 60, 1),
              "calibration": factor}
    if args.validation:
        saved = LlamaForCausalLM.from_pretrained(args.output, dtype=torch.float32)
        validation = read_stories(args.validation, split="validation")
        result["bits_per_character"] = round(bits_per_character(saved, tokenizer, validation, args.context), 4)
    print(json.dumps(result), flush=True)
    Path(args.output, "measured.json").write_text(json.dumps(result, indent=2) + "\n")


def save(model, tokenizer, output: str) -> None:
    """bf16 safetensors: what is measured is what is written."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="roneneldan/TinyStories", help="Hub id or local file with a text column")
    parser.add_argument("--validation", help="Hub id or local file; bits per character are measured on all of it")
    parser.add_argument("--limit", type=int, help="read only the first N stories")
    parser.add_argument("--rare", nargs="*", default=[], help="values of the column `source` whose stories are read every other epoch only")
    parser.add_argument("--init", help="go on from the model in this folder; the same --seed holds out the same stories")
    parser.add_argument("--no-compile", action="store_true", help="for machines without a C++ compiler; half as fast")
    parser.add_argument("--output", required=True)
    parser.add_argument("--seed", type=int, default=0)
    for name, value in dict(vocabulary=4000, hidden=256, layers=6, heads=4, intermediate=704, context=512,
                            tokens=28_000_000, batch_tokens=8192, evaluate_every=500).items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=value)
    parser.add_argument("--minutes", type=float, default=math.inf, help="end the schedule after this long, if it comes before --tokens")
    for name, value in dict(dropout=0.15, wrong=0.1, swap=0.8, ema=0.995, decay=0.4, muon_lr=0.02, adam_lr=3e-3, weight_decay=0.1).items():
        parser.add_argument("--" + name.replace("_", "-"), type=float, default=value)
    train(parser.parse_args())
