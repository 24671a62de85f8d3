"""What the benchmarks share: the random model of P1 and P2, memory, and what machine this is."""

import contextlib
import json
import os
import platform
import random
import resource
import sys
import time
from importlib import metadata
from pathlib import Path

P1 = dict(hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
          max_position_embeddings=512)
VOCABULARY = 4096


def make_model(folder: Path, **shape) -> Path:
    """A random-weight Llama (P1's shape unless told otherwise) with a word-level tokenizer `t3 t4 ...`, saved to `folder`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = shape.pop("vocab_size", VOCABULARY)
    special = ["<unk>", "<pad>", "</s>"]  # not "t0", which a tokenizer would find at the start of "t01", too
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + [f"t{i}" for i in range(3, vocabulary)])},
                                       unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, eos_token_id=2, pad_token_id=1, bos_token_id=None, **P1 | shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts(count: int, tokens: int = 24) -> list[str]:
    rng = random.Random(0)
    return [" ".join(f"t{rng.randrange(3, VOCABULARY)}" for _ in range(tokens)) for _ in range(count)]


def time_steps(trainer) -> tuple[list[float], list[dict]]:
    """Seconds of each step of a PPO trainer, and of its parts; the first step warms up and is left out."""
    seconds, parts, clock = [], [], time.perf_counter()
    for metrics in trainer:
        seconds.append(time.perf_counter() - clock)
        parts.append({name: metrics[f"time/{name}"] for name in ("rollout", "score", "update")})
        clock = time.perf_counter()
    return seconds[1:], parts[1:]


def peak_mb() -> int:
    """Most memory this process held, in MB; on Linux ru_maxrss is in KB, on macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10


def machine() -> dict:
    """Processor, cores, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    found = {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "trl"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def say(value) -> None:
    print(json.dumps(value), flush=True)
