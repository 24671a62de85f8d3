"""A few of the architectures of `benchmarks.surveys.architectures`, one for each mechanism that can go wrong without an error."""

from pathlib import Path

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

from benchmarks.surveys.architecture_checks import CHECKS, Refused
from benchmarks.surveys.tiny_models import WINDOW, tiny_model
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.cpu_decoder import CpuDecoder, cpu_decoder, smallest_window
from rlhf_engine.model.decoders import CachedDecoder, RereadingDecoder, model_decoder
from rlhf_engine.model.generation import Sampling, sample

CACHED, REREAD = CachedDecoder, RereadingDecoder
DECODERS = {
    "mistral": CACHED,  # a sliding window in every layer, in the configuration alone
    "gemma2": CACHED,  # windows in some layers, capped logits
    "bloom": CACHED,  # ALiBi, and no positions
    "opt": CACHED,  # dropout in the block's own forward pass
    "bart": REREAD,  # learned positions that count padding on the left
    "lfm2": CACHED,  # convolutions beside attention
    "qwen3_next": CACHED,  # linear attention, and a mixture of experts
    "mamba": CACHED,  # a state and no attention
    "rwkv": REREAD,  # a state that transformers' cache does not hold
}
"""What decodes each of them."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """path(kind): the folder of a tiny model, made once."""
    made: dict[str, Path] = {}

    def path(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_model(kind, tmp_path_factory.mktemp(kind) / "model")
        return made[kind]
    return path


@pytest.mark.parametrize("kind", DECODERS)
def test_greedy_answers_are_those_of_generate(kind, folders):
    """Left padding, rows that leave, prompts longer than the window."""
    CHECKS["greedy"](folders(kind))
    assert type(model_decoder(load(folders(kind)))) is DECODERS[kind]


@pytest.mark.parametrize("kind", DECODERS)
def test_gradients_are_the_same_with_checkpointing_and_in_a_batch(kind, folders):
    CHECKS["gradients"](folders(kind))


@pytest.mark.parametrize("kind", ["opt", "biogpt", "qwen3_next", "rwkv"])
def test_the_first_step_of_ppo_has_no_kl_and_a_ratio_of_one(kind, folders):
    CHECKS["first step"](folders(kind))


@pytest.mark.parametrize("kind", ["lfm2", "mamba", "rwkv", "laguna"])
def test_a_role_is_saved_loaded_and_merged(kind, folders, tmp_path):
    (tmp_path / "model").symlink_to(folders(kind))
    CHECKS["checkpoint"](tmp_path / "model")
    CHECKS["merge"](tmp_path / "model")


def test_layers_that_share_their_weights_are_not_merged(folders, tmp_path):
    """Zamba's blocks repeat: each repetition has an adapter of its own on the same weights."""
    (tmp_path / "model").symlink_to(folders("zamba"))
    CHECKS["checkpoint"](tmp_path / "model")
    with pytest.raises(Refused, match="share their weights, so it is never merged; leave out --merge"):
        CHECKS["merge"](tmp_path / "model")


def test_a_decoder_of_another_name_is_found(folders):
    """Llama 4's `get_decoder` gives the whole model."""
    CHECKS["states"](folders("llama4_text"))


def test_the_longest_row_is_one_that_the_model_can_read(folders):
    """MPT has a name of its own for its positions."""
    CHECKS["longest"](folders("mpt"))


def load(folder: Path, dtype: str = "fp32") -> Backbone:
    return Backbone.load(str(folder), dtype=dtype, device="cpu")


def test_the_cpu_decoder_takes_rows_within_the_window_alone(folders):
    base = load(folders("mistral")).base
    assert smallest_window(base) == WINDOW
    assert isinstance(cpu_decoder(base, 1, WINDOW), CpuDecoder) and cpu_decoder(base, 1, WINDOW + 1) is None


@pytest.mark.parametrize("setting", [{"sliding_window": 5}, {"attention_chunk_size": 5}, {"local_window": 5}])
def test_a_window_of_any_name_is_one(tiny_llama, setting):
    base = load(tiny_llama).base
    base.config.update(setting)
    assert smallest_window(base) == 5


def test_numbers_that_are_no_windows(tiny_llama):
    base = load(tiny_llama).base
    base.config.update({"use_sliding_window": True, "max_window_layers": 3, "sliding_window": None, "chunk_size_feed_forward": 0})
    assert smallest_window(base) == float("inf")


def test_a_model_that_reads_in_both_directions_is_refused(tmp_path):
    folder = tiny_model("bert-generation", tmp_path / "model", is_decoder=False)
    with pytest.raises(UserError, match="depends on the tokens behind it.*choose a causal language model"):
        load(folder)


def test_a_model_whose_first_pass_fails_is_refused(folders, monkeypatch):
    monkeypatch.setattr("rlhf_engine.model.frozen_base.read_logit_transform", broken)
    with pytest.raises(UserError, match=r"a first pass over a few tokens fails \(no kernel for this device\); choose another model"):
        load(folders("bloom"))


def broken(*args):
    raise RuntimeError("no kernel for this device\nand more")


def test_sampling_follows_the_role_and_its_batch_is_cut_where_every_token_is_read_anew(folders):
    backbone = load(folders("rwkv"))
    backbone.new_role("policy", rank=2)
    with torch.no_grad():
        for weight in backbone.parameters("policy"):
            weight.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    prompts = [[9, 10, 11], [12, 13], [9, 10, 11], [14, 15, 16, 17]]
    answers = {}
    for role in (None, "policy"):
        with backbone.use(role):
            answers[role] = sample(backbone, prompts, Sampling(8), torch.Generator().manual_seed(0), batch=2)
            alone = [sample(backbone, [p], Sampling(6, temperature=0))[0] for p in prompts]
            assert sample(backbone, prompts, Sampling(6, temperature=0)) == alone
    assert answers[None] != answers["policy"]


def test_every_kind_has_a_class_in_transformers():
    assert set(DECODERS) <= set(NAMES)
