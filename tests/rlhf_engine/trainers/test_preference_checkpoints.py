"""Learners of preferences: a run that goes on from a checkpoint is the run that was never stopped."""

import pytest

from tests.rlhf_engine.helpers.trainers import without_time
from tests.rlhf_engine.trainers.test_dpo import make as make_dpo
from tests.rlhf_engine.trainers.test_kto import make as make_kto


@pytest.mark.parametrize("with_policy", [True, False])
@pytest.mark.parametrize(("make", "name"), [(make_dpo, "llama"), (make_dpo, "gpt2"), (make_kto, "llama"), (make_kto, "qwen3")])
def test_a_run_that_goes_on_from_a_checkpoint_gives_the_same_metrics(make, name, with_policy, request, tmp_path):
    path, settings = request.getfixturevalue(f"tiny_{name}"), {"steps": 6, "evaluate_every": 2, "with_policy": with_policy}
    whole = [without_time(m) for m in make(path, **settings)]
    first = make(path, **settings)
    head = [without_time(next(first)) for _ in range(3)]
    first.save(tmp_path)
    second = make(path, **settings)
    second.load(tmp_path)
    assert head + [without_time(m) for m in second] == whole
