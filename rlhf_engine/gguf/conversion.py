"""Converts a GGUF file into a model folder as transformers saves it: config, weights in safetensors, tokenizer.

All that can be refused is refused before anything is written.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rlhf_engine.errors import UserError
from rlhf_engine.files import write_json
from rlhf_engine.gguf.architectures import make_plan
from rlhf_engine.gguf.metadata import Metadata
from rlhf_engine.gguf.numbers import check_kinds
from rlhf_engine.gguf.parts import GgufModel
from rlhf_engine.gguf.progress import WEIGHTS_FILE
from rlhf_engine.gguf.tokenizer import make_tokenizer, write_tokenizer
from rlhf_engine.gguf.tokenizer.vocabulary import Vocabulary
from rlhf_engine.gguf.weights import Plan, Step, check_shapes, make_steps, size_of, write_weights

FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS_FILE)
"""What each folder holds."""


@dataclass(frozen=True)
class Conversion:
    """A conversion that may begin: everything has been read but the weights."""

    gguf: GgufModel
    metadata: Metadata
    plan: Plan
    steps: list[Step]
    tokenizer: Tokenizer
    vocabulary: Vocabulary

    @property
    def weight_bytes(self) -> int:
        """Bytes that the weights will take, at most."""
        return size_of(self.steps)

    @property
    def size(self) -> int:
        """Bytes that the folder will take, at most."""
        return self.weight_bytes + (1 << 26)

    def write(self, folder: Path) -> None:
        """Write the folder's files."""
        config = self.plan.config
        write_json(folder / "config.json", {**config, "eos_token_id": self.vocabulary.eos})
        write_json(folder / "generation_config.json", self.generation())
        write_tokenizer(folder, self.tokenizer, self.vocabulary, self.metadata,
                        config.get("max_position_embeddings") or config.get("n_positions") or 2048)
        write_weights(folder / WEIGHTS_FILE, self.steps, self.gguf.model)

    def generation(self) -> dict[str, Any]:
        """The generation config: tokens with a role. Some models have several tokens that end a response."""
        stops = self.vocabulary.stops()
        roles: dict[str, Any] = {"bos_token_id": self.vocabulary.bos, "pad_token_id": self.vocabulary.padding,
                                 "eos_token_id": stops[0] if len(stops) == 1 else stops or None}
        return {name: value for name, value in roles.items() if value is not None}


def plan_conversion(gguf: GgufModel) -> Conversion:
    """Read a model's metadata and tokenizer, and plan where each tensor goes. Raises UserError for all that cannot be
    converted rightly."""
    metadata = Metadata(gguf.metadata, gguf.model)
    plan = make_plan(metadata, gguf.tensors)
    steps = make_steps(plan, gguf.tensors, gguf.model)
    check_shapes(plan, steps, gguf.model)
    check_kinds(gguf.tensors.values(), gguf.model)
    tokenizer, vocabulary = make_tokenizer(metadata)
    rows = plan.config["vocab_size"]
    if vocabulary.rows > rows:
        raise UserError(f"{gguf.model}: lists {vocabulary.rows} tokens, and its embedding has {rows} rows; download or "
                        "convert the file again")
    metadata.refuse_unused()
    return Conversion(gguf, metadata, plan, steps, tokenizer, vocabulary)


