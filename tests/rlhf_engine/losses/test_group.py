"""The numbers of group learners against hand values, enumerated toys and plain loops."""

import itertools
import math
import statistics

import pytest
import torch

from rlhf_engine.losses import group
from rlhf_engine.losses.ppo import policy_loss, shaped_rewards

SCORES = torch.tensor([[1.0, 2.0, 3.0, 6.0], [0.5, 0.5, 0.5, 0.5]])
NONE_DEAD, SECOND_DEAD = torch.tensor([False, False]), torch.tensor([False, True])


def grid(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prefixes(lengths):
    return torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]


# -- advantages ----------------------------------------------------------------------------------------------------------

def test_grpo_has_the_hand_values_and_sums_to_zero_in_each_group():
    advantages = group.group_advantages(SCORES, SECOND_DEAD, leave_one_out=False, scale=True)
    spread = statistics.stdev([1, 2, 3, 6])  # unbiased
    assert advantages[0].tolist() == pytest.approx([(r - 3) / (spread + 1e-4) for r in (1, 2, 3, 6)])
    assert advantages[1].tolist() == [0.0] * 4
    assert advantages.sum(1).abs().max() < 1e-5


def test_rloo_compares_with_the_mean_of_the_others():
    advantages = group.group_advantages(SCORES, NONE_DEAD, leave_one_out=True, scale=False)
    for i, value in enumerate([1.0, 2.0, 3.0, 6.0]):
        others = [r for j, r in enumerate([1.0, 2.0, 3.0, 6.0]) if j != i]
        assert advantages[0, i].item() == pytest.approx(value - statistics.mean(others))


def test_a_group_of_one_is_refused_and_does_not_become_its_raw_reward():
    with pytest.raises(ValueError, match="nothing to be compared with"):
        group.group_advantages(torch.tensor([[3.0], [1.0]]), NONE_DEAD, leave_one_out=False, scale=False)


def test_rounding_noise_is_no_difference():
    scores = torch.tensor([[0.7, 0.7000001, 0.7, 0.6999999], [0.0, 0.1, 0.0, 0.0]])
    assert group.dead_groups(scores, 1.0).tolist() == [True, False]
    assert group.dead_groups(scores, 1e-6).tolist() == [False, False]  # of a reward that is as small as that, it is one
    assert group.dead_groups(torch.tensor([[1.0], [1.0]]), 1.0).tolist() == [False, False]


def test_a_dead_group_is_not_divided_by_the_spread_of_its_kl():
    rewards = torch.tensor([[0.5, 0.5001, 0.4999, 0.5]])
    advantages = group.group_advantages(rewards, torch.tensor([True]), leave_one_out=False, scale=True)
    assert advantages.abs().max() <= 1.01e-4


def test_reinforce_plus_plus_is_the_whitened_sum_of_what_follows():
    mask = prefixes([3, 2, 1])
    logprobs, ref = grid(3, 3, seed=1), grid(3, 3, seed=2)
    rewards = shaped_rewards(torch.tensor([1.0, -2.0, 0.5]), logprobs, ref, mask, 0.3)
    found = group.batch_advantages(rewards, mask)
    raw = [sum(rewards[i, t:length].tolist()) for i, length in enumerate([3, 2, 1]) for t in range(length)]
    mean, std = statistics.mean(raw), statistics.pstdev(raw)
    assert found[mask].tolist() == pytest.approx([(x - mean) / std for x in raw], abs=1e-4)
    assert found[~mask].abs().sum() == 0


@pytest.mark.parametrize(("length", "expected"), [(10, 0.0), (16, 0.0), (18, -0.5), (20, -1.0), (25, -1.0)])
def test_the_overlong_penalty_falls_in_a_straight_line(length, expected):
    assert group.overlong_penalty(torch.tensor([length]), 20, 4).item() == pytest.approx(expected)
    assert group.overlong_penalty(torch.tensor([length]), 20, 0).item() == 0


# -- the loss ------------------------------------------------------------------------------------------------------------

def test_the_three_normalisers_have_their_hand_values():
    lengths = torch.tensor([2, 6])
    assert group.row_weights(lengths, "grpo", 10).tolist() == pytest.approx([1 / 4, 1 / 12])
    assert group.row_weights(lengths, "dapo", 10).tolist() == pytest.approx([1 / 8, 1 / 8])
    assert group.row_weights(lengths, "dr_grpo", 10).tolist() == pytest.approx([1 / 20, 1 / 20])
    with pytest.raises(ValueError, match="no normaliser"):
        group.row_weights(lengths, "mean", 10)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("normaliser", ["grpo", "dapo", "dr_grpo"])
@pytest.mark.parametrize("dual_clip", [0.0, 3.0])
def test_the_loss_is_that_of_a_plain_loop(normaliser, dual_clip):
    lengths, mask = [4, 1, 3], prefixes([4, 1, 3])
    logprobs, old, advantages = grid(3, 4, seed=1), grid(3, 4, seed=2), grid(3, 4, seed=3)
    weights = group.row_weights(torch.tensor(lengths), normaliser, 7)
    loss, sums = group.group_loss(logprobs, old, advantages, mask, weights, clip=0.2, clip_high=0.28, dual_clip=dual_clip)
    expected = clipped = 0.0
    for i, length in enumerate(lengths):
        share = {"grpo": 1 / (3 * length), "dapo": 1 / 8, "dr_grpo": 1 / 21}[normaliser]
        for t in range(length):
            rho, a = math.exp(logprobs[i, t] - old[i, t]), advantages[i, t].item()
            bounded = min(max(rho, 0.8), 1.28)
            term = -min(rho * a, bounded * a)
            clipped += bounded * a < rho * a
            if dual_clip and a < 0:
                term = min(term, -dual_clip * a)
            expected += share * term
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert sums["clipfrac"].item() == clipped


def test_with_dapo_and_one_range_it_is_the_loss_of_ppo():
    mask = prefixes([4, 1, 3])
    logprobs, old, advantages = grid(3, 4, seed=1), grid(3, 4, seed=2), grid(3, 4, seed=3)
    weights = group.row_weights(torch.tensor([4, 1, 3]), "dapo", 4)
    loss, _ = group.group_loss(logprobs, old, advantages, mask, weights, clip=0.2, clip_high=0.2)
    expected, _ = policy_loss(logprobs, old, advantages, mask, clip=0.2, tokens=8)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_micro_batches_add_up_to_the_gradient_of_the_step():
    lengths, mask = [4, 1, 3], prefixes([4, 1, 3])
    old, advantages, ref = grid(3, 4, seed=2), grid(3, 4, seed=3), grid(3, 4, seed=4)
    weights = group.row_weights(torch.tensor(lengths), "grpo", 4)

    def gradient(parts):
        logprobs = grid(3, 4, seed=1).requires_grad_()
        for rows in parts:
            loss, _ = group.group_loss(logprobs[rows], old[rows], advantages[rows], mask[rows], weights[rows], clip=0.2, clip_high=0.3)
            (loss + 0.1 * group.kl_loss(logprobs[rows], old[rows], ref[rows], mask[rows], weights[rows], corrected=True)).backward()
        return logprobs.grad

    torch.testing.assert_close(gradient([[0], [1, 2]]), gradient([[0, 1, 2]]))


def test_what_is_masked_changes_neither_loss_nor_gradient():
    mask = prefixes([2, 4])
    bad = [grid(2, 4, seed=i).masked_fill(~mask, math.nan).requires_grad_() for i in range(4)]
    weights = torch.ones(2)
    loss, _ = group.group_loss(bad[0], bad[1].detach(), bad[2].detach(), mask, weights, clip=0.2, clip_high=0.2)
    loss = loss + group.kl_loss(bad[0], bad[1].detach(), bad[3].detach(), mask, weights, corrected=True)
    loss.backward()
    assert loss.isfinite() and bad[0].grad.isfinite().all() and bad[0].grad[~mask].abs().sum() == 0


# -- the KL in the loss --------------------------------------------------------------------------------------------------

class Toy:
    """Texts of two tokens out of three: all nine of them, with what policy, sampler and reference say about each token."""

    def __init__(self, shift: float):
        self.first, self.second = grid(3, seed=1).requires_grad_(), grid(3, 3, seed=2).requires_grad_()
        self.ref = grid(3, seed=3).log_softmax(-1), grid(3, 3, seed=4).log_softmax(-1)
        sampler = self.first.detach() + shift * grid(3, seed=5), self.second.detach() + shift * grid(3, 3, seed=6)
        self.old = sampler[0].log_softmax(-1), sampler[1].log_softmax(-1)
        self.texts = list(itertools.product(range(3), range(3)))

    def rows(self, tables) -> torch.Tensor:
        return torch.stack([torch.stack([tables[0][a], tables[1][a, b]]) for a, b in self.texts])

    def policy(self):
        return self.first.log_softmax(-1), self.second.log_softmax(-1)

    def exact_kl(self) -> torch.Tensor:
        """Sum over both places of the KL there, with the beginnings as the sampler writes them."""
        first, second = self.policy()
        at_second = (second.exp() * (second - self.ref[1])).sum(1)
        return (first.exp() * (first - self.ref[0])).sum() + (self.old[0].exp() * at_second).sum()

    def gradient(self, value: torch.Tensor) -> torch.Tensor:
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, [self.first, self.second])])

    def estimate(self, corrected: bool) -> torch.Tensor:
        """The KL loss in expectation over all texts."""
        old = self.rows(self.old)
        weights = old.sum(1).exp()  # how often the sampler writes each text
        return group.kl_loss(self.rows(self.policy()), old, self.rows(self.ref), torch.ones(9, 2), weights, corrected=corrected)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_the_corrected_kl_and_its_gradient_are_those_of_the_exact_kl(shift):
    """On the policy that sampled, and off it."""
    toy = Toy(shift)
    assert toy.estimate(True).item() == pytest.approx(toy.exact_kl().item(), rel=1e-5)
    torch.testing.assert_close(toy.gradient(toy.estimate(True)), toy.gradient(toy.exact_kl()), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_k3_alone_is_another():
    toy = Toy(0.0)
    assert toy.estimate(False).item() == pytest.approx(toy.exact_kl().item(), rel=1e-5)  # the value is right on the policy
    plain, exact = toy.gradient(toy.estimate(False)), toy.gradient(toy.exact_kl())
    assert (plain - exact).norm() > 0.1 * exact.norm()
    # It is that of the KL the other way round: sum over tokens of pi - reference, at each place.
    first, second = toy.policy()
    at_second = toy.old[0].exp()[:, None] * (second.exp() - toy.ref[1].exp())
    torch.testing.assert_close(plain, torch.cat([(first.exp() - toy.ref[0].exp()), at_second.flatten()]).detach(), rtol=1e-4, atol=1e-5)
