"""How many tokens a pass reads: as many as fit and pay, and one row of data at least."""

import math

import pytest

from playground.model_files import SMOLLM2
from rlhf_engine.runs.memory.passes import BLOCK, FILL, WORTHWHILE, choose_pass_size
from rlhf_engine.runs.memory_estimate import estimate, read_model, read_shape
from rlhf_engine.runs.resolve import BUNDLED_MODEL
from rlhf_engine.stages import STAGES, make_config

GIB = 1 << 30
SHAPE = read_shape(SMOLLM2)


def config_of(stage: str, **settings):
    needed = {"reward": "r"} if stage == "ppo" else {}
    return make_config(stage, {"model": "smollm2", **needed, **settings})


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("device, dtype", [("cpu", "fp32"), ("cpu", "bf16"), ("cuda", "bf16")])
def test_the_largest_passes_that_fit(stage, device, dtype):
    config, rows = config_of(stage, dtype=dtype, batch_size=64), STAGES[stage].memory.rows_per_example
    rich = choose_pass_size(config, SHAPE, device=device, free=500 * GIB, tokens=256)
    if device == "cuda":
        assert rich.tokens == 0 and rich.rows == 64 * rows  # the whole step
    else:
        assert rich.tokens == WORTHWHILE[dtype] and rich.rows == rich.tokens // 256
    one = choose_pass_size(config, SHAPE, device=device, free=0, tokens=256)
    assert one.rows == rows and one.tokens == rows * 256  # more cannot be saved
    free = math.ceil((one.need + (rich.need - one.need) / 2) / FILL)
    middle = choose_pass_size(config, SHAPE, device=device, free=free, tokens=256)
    assert middle.need <= FILL * free and one.tokens <= middle.tokens and middle.free == free
    if middle.tokens:
        more = estimate(config, SHAPE, device=device, tokens=256, pass_tokens=middle.tokens + rows * 256).total
        assert more > FILL * free or middle.tokens == rich.tokens


def test_pairs_of_hh_on_smollm2_take_a_fifth_of_before():
    """204 pairs of up to 256 tokens took 10.5 GB with the batch of 16 pairs in one pass."""
    found = choose_pass_size(config_of("reward"), SHAPE, device="cpu", free=12 * GIB, tokens=256)
    assert found.tokens == 512 and found.need < 4 * GIB
    assert estimate(config_of("reward"), SHAPE, tokens=256).total > 9 * GIB


def test_a_set_micro_batch_stays_and_larger_rows_of_the_data_count():
    fixed = choose_pass_size(config_of("sft", micro_batch=8), SHAPE, device="cpu", free=GIB, tokens=256)
    assert fixed.rows == 8 and fixed.tokens == 0
    ranking = choose_pass_size(config_of("reward"), SHAPE, device="cpu", free=GIB, tokens=256, example_tokens=9 * 256)
    assert ranking.tokens == 9 * 256 and ranking.rows == 9


def test_the_bundled_model_reads_more_tokens_a_pass():
    shape = read_shape(read_model(BUNDLED_MODEL))
    whole = choose_pass_size(make_config("sft", {}), shape, device="cpu", free=20 * GIB, tokens=114)
    assert whole.tokens == 0 and shape.blocks // shape.layers < BLOCK
    many = choose_pass_size(make_config("sft", {"batch_size": 512}), shape, device="cpu", free=20 * GIB, tokens=114)
    assert 1500 < many.tokens < 20_000
