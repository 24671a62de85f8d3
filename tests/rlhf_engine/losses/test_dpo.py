"""DPO and its relatives: hand values, invariants, and independent formulas."""

import math
from itertools import permutations

import pytest
import torch

from rlhf_engine.losses.dpo import (
    MEANS,
    PAIR_LOSSES,
    hinge_loss,
    ipo_loss,
    kto_loss,
    kto_reference,
    plackett_luce_loss,
    robust_loss,
    sigmoid_loss,
)

ALL = pytest.mark.parametrize("name", PAIR_LOSSES)


def smooth(value: float, count: int = 1) -> torch.Tensor:
    return torch.full((count,), value)


def at(name: str, margin: float, beta: float = 0.1, smoothing: float = 0.0) -> float:
    return PAIR_LOSSES[name](torch.tensor([margin]), beta, smooth(smoothing)).item()


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_at_the_start_the_loss_has_the_value_that_everybody_knows(smoothing):
    for name in ("sigmoid", "robust", "length-normalised"):
        assert at(name, 0.0, smoothing=smoothing) == pytest.approx(math.log(2))
    assert at("hinge", 0.0, smoothing=smoothing) == pytest.approx(1)
    assert at("ipo", 0.0, beta=0.25) == pytest.approx(1 / (4 * 0.25 ** 2))


def test_hand_values():
    assert at("sigmoid", 10.0) == pytest.approx(math.log(1 + math.exp(-1)))
    assert at("sigmoid", 10.0, smoothing=0.2) == pytest.approx(0.8 * math.log(1 + math.exp(-1)) + 0.2 * math.log(1 + math.e))
    assert at("ipo", 3.0) == pytest.approx((3 - 5) ** 2) and at("ipo", 3.0, smoothing=0.2) == pytest.approx((3 - 3) ** 2)
    assert at("hinge", 4.0) == pytest.approx(0.6) and at("hinge", 12.0) == 0
    assert at("hinge", 4.0, smoothing=0.25) == pytest.approx(0.75 * 0.6 + 0.25 * 1.4)
    wrong, right = math.log(1 + math.e), math.log(1 + math.exp(-1))
    assert at("robust", 10.0, smoothing=0.2) == pytest.approx((0.8 * right - 0.2 * wrong) / 0.6)


@ALL
def test_a_swapped_pair_flips_the_gradient(name):
    gradients = []
    for sign in (1.0, -1.0):
        d = torch.zeros(2, requires_grad=True)
        PAIR_LOSSES[name](sign * (d[:1] - d[1:]), 0.1, smooth(0.0)).sum().backward()
        gradients.append(d.grad)
    assert torch.equal(gradients[0], -gradients[1])
    assert gradients[0][0] < 0 < gradients[0][1], "the chosen response becomes likelier"


@ALL
def test_a_tie_pulls_the_two_together_and_has_no_side(name):
    assert at(name, 2.0, smoothing=0.5) == pytest.approx(at(name, -2.0, smoothing=0.5))
    assert at(name, 2.0, beta=1.0, smoothing=0.5) > at(name, 0.0, beta=1.0, smoothing=0.5) - 1e-6
    margin = torch.tensor([0.7], requires_grad=True)
    PAIR_LOSSES[name](margin, 1.0, smooth(0.5)).sum().backward()
    assert margin.grad.isfinite().all() and margin.grad.item() >= 0


def test_robust_dpo_is_unbiased_under_flipped_labels():
    """Its mean over labels that are flipped with probability e is the plain loss of the true ones."""
    margins, e = torch.linspace(-30, 30, 13), 0.3
    noisy = (1 - e) * robust_loss(margins, 0.1, smooth(e, 13)) + e * robust_loss(-margins, 0.1, smooth(e, 13))
    torch.testing.assert_close(noisy, sigmoid_loss(margins, 0.1, smooth(0.0, 13)))


@ALL
def test_gradients_agree_with_finite_differences(name):
    margins = torch.tensor([-3.0, -0.4, 0.3, 2.5], dtype=torch.double, requires_grad=True)
    smoothing = torch.tensor([0.0, 0.1, 0.3, 0.5], dtype=torch.double)
    loss = PAIR_LOSSES[name]

    def value(shift: float, i: int) -> float:
        moved = margins.detach().clone()
        moved[i] += shift
        return loss(moved, 0.7, smoothing)[i].item()
    loss(margins, 0.7, smoothing).sum().backward()
    for i in range(4):
        assert margins.grad[i].item() == pytest.approx((value(1e-2, i) - value(-1e-2, i)) / 2e-2, abs=2e-3)


def test_shapes_that_would_be_broadcast_are_refused():
    for loss in (sigmoid_loss, ipo_loss, hinge_loss, robust_loss):
        with pytest.raises(ValueError, match="shapes must be equal"):
            loss(torch.zeros(3), 0.1, torch.zeros(3, 1))
    with pytest.raises(ValueError, match="ranks"):
        plackett_luce_loss(torch.zeros(3), [1, 2])


def test_which_losses_read_means():
    assert MEANS == {"ipo", "length-normalised"} <= set(PAIR_LOSSES)


# -- Plackett-Luce ---------------------------------------------------------------------------------------------------

def order_loss(rewards: list[float], order: tuple[int, ...]) -> float:
    """The loss of one strict order, from the definition."""
    total = 0.0
    for place, i in enumerate(order):
        total -= rewards[i] - math.log(sum(math.exp(rewards[j]) for j in order[place:]))
    return total


def test_two_responses_are_dpo():
    rewards = torch.tensor([0.4, -1.1])
    margin = (rewards[:1] - rewards[1:])
    assert plackett_luce_loss(rewards, [1, 2]).item() == pytest.approx(sigmoid_loss(margin, 1.0, smooth(0.0)).item())
    assert plackett_luce_loss(rewards, [2, 1]).item() == pytest.approx(sigmoid_loss(-margin, 1.0, smooth(0.0)).item())
    assert plackett_luce_loss(rewards, [1, 1]).item() == pytest.approx(sigmoid_loss(margin, 1.0, smooth(0.5)).item())


@pytest.mark.parametrize("ranks", [(1, 2, 3, 4), (4, 2, 1, 3), (1, 1, 2, 3), (2, 1, 1, 1), (1, 1, 1, 1), (3, 1, 3, 1), (1.5, 1.5, 3, 4)])
def test_a_ranking_is_the_mean_over_the_orders_that_its_ties_leave_open(ranks):
    rewards = [0.3, -0.7, 1.2, 0.1]
    open_orders = [order for order in permutations(range(4))
                   if all(ranks[a] <= ranks[b] for a, b in zip(order, order[1:]))]
    expected = sum(order_loss(rewards, order) for order in open_orders) / len(open_orders)
    assert plackett_luce_loss(torch.tensor(rewards), ranks).item() == pytest.approx(expected, rel=1e-5)


def test_the_probabilities_of_all_orders_sum_to_one():
    rewards = torch.tensor([0.3, -0.7, 1.2])
    total = 0.0
    for order in permutations(range(3)):
        ranks = [order.index(i) + 1 for i in range(3)]
        total += math.exp(-plackett_luce_loss(rewards, ranks).item())
    assert total == pytest.approx(1, rel=1e-5)


def test_the_gradient_of_a_ranking_with_ties_is_finite_and_sums_to_zero():
    rewards = torch.tensor([0.3, -0.7, 1.2, 40.0], requires_grad=True)
    plackett_luce_loss(rewards, [1, 2, 2, 3]).backward()
    assert rewards.grad.isfinite().all() and rewards.grad.sum().item() == pytest.approx(0, abs=1e-5)


# -- KTO -------------------------------------------------------------------------------------------------------------

def test_kto_by_hand():
    d, good = torch.tensor([3.0, 3.0]), torch.tensor([True, False])
    losses = kto_loss(d, good, torch.tensor(1.0), 0.5, desirable_weight=2.0, undesirable_weight=3.0)
    gain = 1 / (1 + math.exp(-1.0))
    assert losses.tolist() == pytest.approx([2 * (1 - gain), 3 * gain])
    half = kto_loss(torch.ones(2), good, torch.tensor(1.0), 0.5)
    assert half.tolist() == pytest.approx([0.5, 0.5]), "half the weight at the reference point"


def test_kto_makes_good_responses_likelier_and_bad_ones_less_likely():
    d = torch.zeros(2, requires_grad=True)
    kto_loss(d, torch.tensor([True, False]), torch.tensor(0.0), 0.1).sum().backward()
    assert d.grad[0] < 0 < d.grad[1]


def test_the_reference_point_is_no_negative_number_and_has_no_gradient():
    assert kto_reference(torch.tensor([-3.0, 1.0])).item() == 0
    mean = kto_reference(torch.tensor([3.0, 1.0], requires_grad=True))
    assert mean.item() == 2 and not mean.requires_grad
