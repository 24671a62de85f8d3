"""Tokenizers with and without a chat template."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["the quick brown fox jumps over the lazy dog", "once upon a time there was a little girl who ran quickly",
         "Human: hello, how are you? Assistant: I am fine, thank you!"] * 5
CHATML = ("{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}")


def byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def around(tokenizer: Tokenizer, pattern: str, *names: str) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=pattern, special_tokens=[(name, tokenizer.token_to_id(name)) for name in names])


@pytest.fixture(scope="session")
def chat():
    """ChatML like Qwen's, with a newline behind the end of a turn; BOS from the template and from the tokenizer."""
    tokenizer = byte_level(["<|pad|>", "<|bos|>", "<|start|>", "<|end|>"])
    around(tokenizer, "<|bos|> $A", "<|bos|>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|end|>",
                                   pad_token="<|pad|>", chat_template=CHATML)


def text_of(tokenizer, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


class SimpleTemplate:
    """A tokenizer with another chat template."""

    def __init__(self, tokenizer, template: str):
        self.inner, self.chat_template = tokenizer, template

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, *args, **options):
        return self.inner(*args, **options)

    def __len__(self):
        return len(self.inner)

    def apply_chat_template(self, messages, **options):
        return self.inner.apply_chat_template(messages, chat_template=self.chat_template, **options)
