"""Where the files of a base model lie, and what its config.json says about its size."""

from pathlib import Path

from playground import text
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.runs import smollm2
from rlhf_engine.runs.gguf_files import find_gguf, read_gguf_config
from rlhf_engine.runs.memory_estimate import Shape, read_model, read_shape
from rlhf_engine.runs.resolve import BUNDLED_MODEL

_QWEN3 = {"model_type": "qwen3", "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
          "max_position_embeddings": 40960}
SUGGESTED_MODELS = {
    "Qwen/Qwen3-1.7B": {**_QWEN3, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28,
                        "num_attention_heads": 16,
                        "tie_word_embeddings": True},
    "Qwen/Qwen3-4B": {**_QWEN3, "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36,
                      "num_attention_heads": 32,
                      "tie_word_embeddings": True},
    "Qwen/Qwen3-8B": {**_QWEN3, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
                      "num_attention_heads": 32,
                      "tie_word_embeddings": False},
}
"""What the config.json of each suggested model says about its size, so that its memory is known before it is
downloaded."""
SMOLLM2 = {"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
           "num_attention_heads": 9, "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 8192,
           "tie_word_embeddings": True}
"""The same of `smollm2`, which has two places (`runs.smollm2`)."""
OFFERED_MODELS = {smollm2.NAME: SMOLLM2, **SUGGESTED_MODELS}
"""All models that the page offers besides those of the workspace."""


def model_folder(workspace: Workspace, model: str) -> Path | None:
    """The folder with the files of a model; None for a Hub id that has not been downloaded, and for a GGUF file.

    Raises UserError for a path outside the workspace.
    """
    name = workspace.seen_model(model)
    if name == "bundled":
        return BUNDLED_MODEL
    if name == smollm2.NAME:
        return smollm2.hub_folder()
    if Path(name).is_absolute():
        return None if find_gguf(name) else Path(name)
    from huggingface_hub import try_to_load_from_cache  # slow to import, and needed for Hub ids only
    file = try_to_load_from_cache(name, "config.json")
    return Path(file).parent if isinstance(file, str) else None


def gguf_file(workspace: Workspace, model: str) -> Path | None:
    """The GGUF file that a model is read from; None for any other. Raises UserError for a path outside the
    workspace."""
    name = workspace.seen_model(model)
    if name == smollm2.NAME:
        return None if smollm2.hub_folder() else smollm2.package_file()
    return find_gguf(name) if Path(name).is_absolute() else None


def model_shape(workspace: Workspace, model: str) -> Shape:
    """The architecture of a model. Raises UserError if its size cannot be known."""
    if file := gguf_file(workspace, model):
        return read_shape(read_gguf_config(file, model)[0], model)
    folder = model_folder(workspace, model)
    if folder is not None:
        return read_shape(read_model(folder, model), model)
    if model in OFFERED_MODELS:
        return read_shape(OFFERED_MODELS[model], model)
    raise UserError(text.NOT_DOWNLOADED.format(model=model))
