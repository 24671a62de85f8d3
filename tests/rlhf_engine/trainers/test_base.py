"""What the trainers share: every row once an epoch, hand-computed schedules, and a state that comes back bit for bit."""

import math
import random
from collections import Counter

import pytest
import torch

from rlhf_engine.data.batches import batch_of, split_held_out, step_count
from rlhf_engine.model.batching import micro_batches, out_of_memory
from rlhf_engine.trainers.base import Trainer, adam, fitted_learning_rate, schedule
from rlhf_engine.trainers.state import load_state, save_state

LENGTH_FIELDS = random.Random(3).choices(range(5, 100), k=96)


def epoch(number: int, lengths, batch: int, seed: int = 0) -> list[list[int]]:
    per_epoch = max(1, len(lengths) // batch)
    return [batch_of(number * per_epoch + i + 1, lengths, batch, seed) for i in range(per_epoch)]


@pytest.mark.parametrize("batch", [1, 2, 4, 6, 8, 32, 96])
def test_an_epoch_covers_every_row_exactly_once(batch):
    for number in (0, 1, 5):
        batches = epoch(number, LENGTH_FIELDS, batch)
        assert all(len(rows) == batch for rows in batches)
        assert sorted(i for rows in batches for i in rows) == list(range(96))


def test_rows_that_fill_no_batch_are_others_each_epoch():
    seen = []
    for number in range(8):
        rows = [i for rows in epoch(number, LENGTH_FIELDS[:10], 4) for i in rows]
        assert len(rows) == len(set(rows)) == 8
        seen.append(frozenset(range(10)) - set(rows))
    assert len(set(seen)) > 1


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch(number, LENGTH_FIELDS, 8, seed) for number in (0, 1, 2) for seed in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    assert {frozenset(rows) for rows in orders[0]} != {frozenset(rows) for rows in orders[2]}  # other company, too
    assert orders[0] == epoch(0, LENGTH_FIELDS, 8, 0)


def test_few_rows_are_one_batch_every_step():
    for step in (1, 2, 7):
        assert sorted(batch_of(step, [5, 3, 4], 8, 0)) == [0, 1, 2]
    assert len({tuple(batch_of(step, [5, 5, 5], 8, 0)) for step in range(1, 20)}) > 1


def test_batches_hold_rows_of_like_length_in_no_order_of_length():
    batches = epoch(0, LENGTH_FIELDS, 8)[:8]
    spread = sum(max(LENGTH_FIELDS[i] for i in rows) - min(LENGTH_FIELDS[i] for i in rows) for rows in batches) / 8
    assert spread < 0.4 * (max(LENGTH_FIELDS) - min(LENGTH_FIELDS))
    means = [sum(LENGTH_FIELDS[i] for i in rows) for rows in batches]
    assert means != sorted(means)


def test_micro_batches():
    assert micro_batches([1, 2, 3, 4, 5], 2) == [[1, 2], [3, 4], [5]]
    assert micro_batches([1, 2, 3], 0) == micro_batches([1, 2, 3], 9) == [[1, 2, 3]]
    assert micro_batches([], 0) == []


@pytest.mark.parametrize(("step", "total", "warmup", "kind", "expected"), [
    (1, 10, 0.0, "constant", 1.0), (10, 10, 0.0, "constant", 1.0), (1, 10, 0.0, "linear", 1.0), (6, 10, 0.0, "linear", 0.5),
    (10, 10, 0.0, "linear", 0.1), (1, 10, 0.4, "constant", 0.25), (3, 10, 0.4, "constant", 0.75), (4, 10, 0.4, "constant", 1.0),
    (2, 10, 0.4, "linear", 0.45), (1, 1, 0.05, "linear", 1.0), (1, 4, 1.0, "constant", 0.25), (4, 4, 1.0, "constant", 1.0)])
def test_the_schedule(step, total, warmup, kind, expected):
    assert schedule(step, total, warmup, kind) == pytest.approx(expected)


@pytest.mark.parametrize(("rows", "batch", "epochs", "steps", "expected"), [
    (100, 10, 2.0, 0, 20), (100, 10, 0.5, 0, 5), (100, 16, 1.0, 0, 6), (3, 16, 1.0, 0, 1), (100, 10, 2.0, 7, 7), (100, 10, 0.0, 0, 1)])
def test_how_many_steps(rows, batch, epochs, steps, expected):
    assert step_count(rows, batch, epochs, steps) == expected


@pytest.mark.parametrize(("count", "share", "held"), [(100, 0.1, 10), (100, 0.0, 0), (2, 0.1, 1), (2, 0.9, 1), (1, 0.5, 0), (10, 0.9, 9), (0, 0.5, 0)])
def test_held_out_rows_are_disjoint_and_nothing_is_lost(count, share, held):
    rows = list(range(count))
    train, out = split_held_out(rows, share, seed=0)
    assert len(out) == held and sorted(train + out) == rows == list(range(count))
    assert (train, out) == split_held_out(rows, share, seed=0)
    if count == 100 and share:
        assert set(out) != set(split_held_out(rows, share, seed=1)[1])


@pytest.mark.parametrize("price", [0, 5, 20, 1000])
@pytest.mark.parametrize("size", [0, 2, 4])
def test_micro_batches_by_length_compute_the_least(size, price):
    lengths = random.Random(price + size).choices(range(1, 30), k=7)
    order = sorted(range(7), key=lambda i: (lengths[i], i))

    def cost(parts):
        return sum(len(part) * max(lengths[i] for i in part) + price for part in parts)
    cuts = [[0, *(i + 1 for i in range(6) if bits >> i & 1), 7] for bits in range(64)]
    every = [[order[a:b] for a, b in zip(cut, cut[1:])] for cut in cuts if max(b - a for a, b in zip(cut, cut[1:])) <= (size or 7)]
    found = micro_batches(order, size, lengths.__getitem__, price)
    assert [i for part in found for i in part] == order
    assert max(map(len, found)) <= (size or 7) and cost(found) == min(map(cost, every))


def test_rows_of_one_length_go_together():
    assert micro_batches([1, 2, 3], 0, lambda row: 9, 1) == [[1, 2, 3]]
    assert micro_batches([], 0, lambda row: 9) == []


def same(a, b) -> bool:
    """Equal in structure, types (a tuple may come back as a list) and bits."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict):
        return list(a) == list(b) and [type(k) for k in a] == [type(k) for k in b] and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b and str(a) == str(b)  # str: -0.0


def bits(tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def round_trip(folder, state: dict) -> dict:
    save_state(folder, state)
    assert {p.suffix for p in folder.iterdir()} == {".json", ".safetensors"}  # no pickle
    return load_state(folder)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    generator = torch.Generator().manual_seed(5)
    torch.rand(7, generator=generator)
    state = {
        "step": 12, "generator": generator.get_state(), "none": None, "yes": True, "text": "größe\n\u2028\"", "empty": [], "nothing": {},
        "floats": [0.1 + 0.2, 1e-320, -0.0, math.inf, -math.inf, math.nan, 1 / 3, 5e300], "ints": [0, -1, 2**70],
        "nested": [[1, [2.5, (3, [])]], {"tensor": 1, "pairs": [{"pairs": torch.ones(2)}]}], 0: {1: "a", -2: [torch.tensor([math.nan, -0.0])]},
        "tensors": [torch.rand(3, 4).t(), torch.tensor(3.5), torch.zeros(0, 2), torch.arange(4, dtype=torch.int16), torch.tensor(True),
                    torch.rand(5).bfloat16(), torch.rand(4, dtype=torch.float64), torch.rand(2, 6)[:, ::2]],
        "expanded": torch.ones(1, 3).expand(4, 3)}
    state["shared"] = state["tensors"][0]
    found = round_trip(tmp_path, state)
    assert same(state, found)
    again = torch.Generator()
    again.set_state(found["generator"])
    assert torch.equal(torch.rand(9, generator=generator), torch.rand(9, generator=again))


def test_tensors_under_names_that_look_alike_are_told_apart(tmp_path):
    state = {"a.b": torch.tensor(1.0), "a": {"b": torch.tensor(2.0)}, 0: torch.tensor(3.0), "0": torch.tensor(4.0)}
    assert same(state, round_trip(tmp_path, state))


def test_what_json_cannot_hold_is_refused_at_once(tmp_path):
    with pytest.raises(TypeError):
        save_state(tmp_path, {"rng": random.Random(0)})


def test_adam_goes_on_as_if_it_had_never_stopped(tmp_path):
    def make():
        torch.manual_seed(0)
        groups = [torch.nn.Parameter(torch.randn(4, 3))], [torch.nn.Parameter(torch.randn(5)), torch.nn.Parameter(torch.randn(2, 2))]
        return [p for group in groups for p in group], adam(*groups)

    def steps(parameters, optimizer, numbers):
        for number in numbers:
            generator = torch.Generator().manual_seed(number)
            for i, p in enumerate(parameters):
                p.grad = torch.randn(p.shape, generator=generator) if i != 1 or number > 5 else None  # one begins late
            for group, rate in zip(optimizer.param_groups, (1e-2, 3e-3)):
                group["lr"] = rate / number
            optimizer.step()

    whole, optimizer = make()
    steps(whole, optimizer, range(1, 11))
    first, optimizer = make()
    steps(first, optimizer, range(1, 5))
    state = round_trip(tmp_path, {"optimizer": optimizer.state_dict()})
    assert same(optimizer.state_dict(), state["optimizer"])
    second, optimizer = make()
    with torch.no_grad():
        for p, q in zip(second, first):
            p.copy_(q)
    optimizer.load_state_dict(state["optimizer"])
    steps(second, optimizer, range(5, 11))
    assert all(bits(p.detach()) == bits(q.detach()) for p, q in zip(whole, second))


def test_adam_is_that_of_rlhf():
    parameters = [[torch.nn.Parameter(torch.ones(1))], [torch.nn.Parameter(torch.ones(2))]]
    optimizer = adam(*parameters)
    assert Counter(len(g["params"]) for g in optimizer.param_groups) == {1: 2}
    for group in optimizer.param_groups:
        assert group["eps"] == 1e-5 and group["weight_decay"] == 0 and tuple(group["betas"]) == (0.9, 0.999)


def test_the_fitted_learning_rate_falls_with_width():
    assert fitted_learning_rate(2000) == pytest.approx(5e-4)
    assert fitted_learning_rate(256) == pytest.approx(2.49e-3, rel=0.01)
    assert fitted_learning_rate(4096) == pytest.approx(2.86e-4, rel=0.01)


# -- when memory runs out -----------------------------------------------------------------------------------------------

class Small(Trainer):
    """A trainer of one weight, on a machine with room for `room` rows at a time."""

    def __init__(self, room: int, micro_batch: int = 0, error=torch.OutOfMemoryError("CUDA out of memory")):
        self.weight, self.room, self.error = torch.nn.Parameter(torch.zeros(())), room, error
        self.optimizer, self.events, self.step, self.micro_batch = torch.optim.SGD([self.weight], lr=1.0), [], 7, micro_batch
        self.on_microbatch, self.sizes = lambda: None, []

    def backward(self, part: list[int]) -> dict:
        self.sizes.append(len(part))
        (self.weight * sum(part)).backward()  # gradients are there already when memory runs out
        if len(part) > self.room:
            raise self.error
        return {"sum": float(sum(part)), "rows": len(part)}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes. not enough memory")])
def test_micro_batches_are_halved_until_they_fit_and_the_gradient_is_the_same(error):
    whole, small = Small(room=100), Small(room=3, error=error)
    rows = list(range(1, 11))
    assert whole.accumulate(rows, whole.backward) == small.accumulate(rows, small.backward) == {"sum": 55.0, "rows": 10}
    assert whole.weight.grad == small.weight.grad == 55
    assert small.sizes == [10, 5, 3, 3, 3, 1] and small.micro_batch == 3 and whole.micro_batch == 0
    assert small.events == [{"event": "memory", "step": 7, "micro_batch": 5, "was": 10}, {"event": "memory", "step": 7, "micro_batch": 3, "was": 5}]
    small.accumulate(rows, small.backward)
    assert small.sizes[6:] == [3, 3, 3, 1]  # it has learnt


def test_what_does_not_fit_row_by_row_and_other_errors_are_raised():
    hopeless = Small(room=0)
    with pytest.raises(torch.OutOfMemoryError):
        hopeless.accumulate([1, 2, 3], hopeless.backward)
    assert hopeless.sizes == [3, 2, 1]
    wrong = Small(room=1, error=RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes"):
        wrong.accumulate([1, 2], wrong.backward)
    assert wrong.sizes == [2] and not wrong.events


def test_a_real_cpu_allocator_that_fails_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60)
    assert out_of_memory(caught.value) and not out_of_memory(ValueError("shapes"))
