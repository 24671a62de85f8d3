"""Fixtures: tiny random-weight models of three architectures, made once per session, and the shared real data where it is there."""

import os
import sys
from pathlib import Path

# Compile each module once: the tests start some forty processes.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side, so each process, and what it starts, has one thread
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

HERE = Path(__file__).parent
LONGEST = ("test_notebooks.py", "playground/test_story.py", "rlhf_engine/worker/test_worker.py", "test_space.py", "test_first_version.py",
           "test_recipe.py", "rlhf_engine/test_longer_runs.py", "rlhf_engine/test_build_and_loop.py", "rlhf_engine/teach/test_trainer.py")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WORDS = ["once", "upon", "a", "time", "there", "was", "a", "little", "dog", "cat", "bird", "girl", "boy", "who", "liked", "to", "play", "run", "jump", "sing", "in", "the", "park", "garden", "house", "with", "her", "his", "friend", "mom", "dad", "one", "day", "they", "found", "a", "big", "red", "ball", "and", "were", "very", "happy", "sad", "tired", ".", ",", "!", "the", "end"]
TEMPLATE = ("{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared real data; tests that need it skip in a clone that has none beside it."""
    if not SHARED.is_dir():
        pytest.skip("needs the shared data folder beside the checkout")
    return SHARED


def sentences(count: int, seed: int = 0) -> list[str]:
    generator = torch.Generator().manual_seed(seed)
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (12,), generator=generator)) for _ in range(count)]


def make_tokenizer(*, chat: bool, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer on the word list. Without `bos` it is GPT-2's kind: one special token, which is pad, too."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"] if bos else ["<|endoftext|>"]
    tokenizer.train_from_iterator(sentences(200), trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    if not bos:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.token_to_id("<|bos|>"))])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>", pad_token="<|pad|>")
    if chat:
        fast.chat_template = TEMPLATE
    return fast


def save(model, tokenizer, folder: Path) -> Path:
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory) -> Path:
    """Llama with a BOS, a chat template and an end token of its own."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer(chat=True)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.2)
    return save(LlamaForCausalLM(config), tokenizer, tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory) -> Path:
    """GPT-2: Conv1D layers, learned positions, dropout in its config, no BOS, no template, and pad == eos."""
    torch.manual_seed(1)
    tokenizer = make_tokenizer(chat=False, bos=False)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.2)
    return save(GPT2LMHeadModel(config), tokenizer, tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory) -> Path:
    """Qwen3: query and key norms, tied embeddings, a chat template, and pad == eos."""
    torch.manual_seed(2)
    tokenizer = make_tokenizer(chat=True)
    tokenizer.pad_token = tokenizer.eos_token
    config = Qwen3Config(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         num_key_value_heads=2, head_dim=16, max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=True)
    return save(Qwen3ForCausalLM(config), tokenizer, tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="session", params=["llama", "gpt2", "qwen3"])
def tiny_model(request) -> Path:
    """Each of the three architectures in turn."""
    return request.getfixturevalue(f"tiny_{request.param}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that the processes end at about the same time."""
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(HERE).as_posix(), len(order)))
