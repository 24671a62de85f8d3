"""What the benchmarks share: random models, TRL's PPO as the control, memory, and a description of the machine."""

import contextlib
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

P1 = dict(hidden_size=256, intermediate_size=704, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
          max_position_embeddings=512)
VOCABULARY = 4096

QWEN3 = dict(head_dim=128, num_key_value_heads=8, vocab_size=151936, tie_word_embeddings=True)
SHAPES = {
    "0.6B": QWEN3 | dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16),
    "1.7B": QWEN3 | dict(hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16),
    "4B": QWEN3 | dict(hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32),
    "8B": QWEN3 | dict(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
                       tie_word_embeddings=False),
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=16, vocab_size=4096, tie_word_embeddings=True),
}
"""The shapes of Qwen3 by name; `tiny` is for a CPU."""


def make_tokenizer(vocabulary: int):
    """A word-level tokenizer `t3 t4 ...` with an id for each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<pad>", "</s>"]  # not "t0", which a tokenizer would find at the start of "t01", too
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(special + [f"t{i}"
                                                                                    for i in range(3, vocabulary)])},
                                       unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


def make_model(folder: Path, **shape) -> Path:
    """Save a random-weight Llama to `folder`, with the tokenizer of `make_tokenizer`. `shape` changes P1's shape."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = shape.pop("vocab_size", VOCABULARY)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, eos_token_id=2, pad_token_id=1, bos_token_id=None,
                                         **P1 | shape))
    model.save_pretrained(folder)
    make_tokenizer(vocabulary).save_pretrained(folder)
    return folder


def random_model(kind: str, shape: str, dtype: str, device):
    """A model with random weights in bf16, made one at a time on the device. `kind` is "CausalLM" or
    "SequenceClassification".

    With `dtype` "nf4" its linear layers are in 4 bits, except for the last one, as `load_base` makes them from a file.
    """
    import torch
    import transformers
    from transformers.integrations import replace_with_bnb_linear

    from rlhf_engine.model.loading import four_bits

    config = transformers.Qwen3Config(**SHAPES[shape], max_position_embeddings=4096, num_labels=1, bos_token_id=None,
                                      pad_token_id=1, eos_token_id=2)
    with torch.device("meta"):
        model = getattr(transformers, f"AutoModelFor{kind}").from_config(config, dtype=torch.bfloat16)
    if dtype == "nf4":
        replace_with_bnb_linear(model, modules_to_not_convert=["lm_head", "score"], quantization_config=four_bits())
        model.is_loaded_in_4bit = True  # for PEFT
    made = {}
    for module in model.modules():
        for name, old in list(module.named_parameters(recurse=False)):
            if old not in made:  # tied weights are one
                weight = torch.empty(old.shape, dtype=torch.bfloat16, device=device)
                weight = weight.fill_(1.0) if old.dim() == 1 else weight.normal_(std=0.02)
                if type(old).__name__ == "Params4bit":
                    made[old] = type(old)(weight, requires_grad=False, compress_statistics=old.compress_statistics,
                                          quant_type=old.quant_type, quant_storage=old.quant_storage,
                                          module=module).to(device)
                else:
                    made[old] = torch.nn.Parameter(weight)
            setattr(module, name, made[old])
    model.tie_weights()
    with torch.device(device):  # its frequencies are no parameters
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval()


def random_backbone(shape: str, dtype: str, device):
    """A `Backbone` on `random_model`, of which no token ends a response."""
    import torch

    from rlhf_engine.model.backbone import Backbone

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as empty:  # a fingerprint of nothing: there are no files
        backbone = Backbone(random_model("CausalLM", shape, dtype, device), make_tokenizer(SHAPES[shape]["vocab_size"]),
                            name=shape, path=Path(empty), dtype=dtype)
    backbone.stop_ids = [-1]
    return backbone


def prompts(count: int, tokens: int = 24) -> list[str]:
    rng = random.Random(0)
    return [" ".join(f"t{rng.randrange(3, VOCABULARY)}" for _ in range(tokens)) for _ in range(count)]


def time_steps(trainer) -> tuple[list[float], list[dict]]:
    """Seconds of each step of a PPO trainer, and of its parts. The first step warms up and is left out."""
    seconds, parts, clock = [], [], time.perf_counter()
    for metrics in trainer:
        seconds.append(time.perf_counter() - clock)
        parts.append({name: metrics[f"time/{name}"] for name in ("rollout", "score", "update")})
        clock = time.perf_counter()
    return seconds[1:], parts[1:]


def time_trl(policy, value, reward, tokenizer, texts: list[str], steps: int, rank: int, **options) -> list[float]:
    """Seconds of each step of TRL's PPO, with LoRA on all linear layers and all `texts` in each step.

    It takes `steps` + 1 steps. The first one warms up and is left out.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    data = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in texts] * (steps + 1)})
    ends = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as output:
        config = PPOConfig(output_dir=output, num_mini_batches=1, total_episodes=len(texts) * (steps + 1),
                           learning_rate=1e-4, num_sample_generations=0, report_to="none", save_strategy="no",
                           missing_eos_penalty=None, **options)
        trainer = PPOTrainer(args=config, processing_class=tokenizer, model=policy, ref_model=None, reward_model=reward,
                             value_model=value, train_dataset=data, eval_dataset=data, callbacks=[Clock()],
                             peft_config=LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear",
                                                    task_type="CAUSAL_LM"))
        trainer.train()
    return [b - a for a, b in zip(ends, ends[1:])]


def spawn(python: str, file: str, *flags, seconds: float | None = None) -> dict:
    """The last line of JSON that a benchmark prints in a process of its own.

    Raises RuntimeError with the message of the process if it fails or takes longer than `seconds`.
    """
    try:
        done = subprocess.run([python, file, *map(str, flags)], capture_output=True, text=True, timeout=seconds,
                              env=os.environ | {"HF_HUB_OFFLINE": "1"})
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"was stopped after {seconds:.0f} s") from None
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_mb() -> int:
    """Most memory this process held, in MB; on Linux ru_maxrss is in KB, on macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak >> 20 if sys.platform == "darwin" else peak >> 10


def machine() -> dict:
    """Processor, cores, and the versions that matter."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines()
             if line.startswith("model name")] if info.exists() else []
    found = {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(),
             "python": platform.python_version()}
    for name in ("torch", "transformers", "peft", "bitsandbytes", "trl"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def say(value) -> None:
    print(json.dumps(value), flush=True)
