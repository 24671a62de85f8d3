"""The value that is fitted by least squares, against formulas written out here."""

import pytest
import torch

from rlhf_engine.rollout.fitted_value import FOLDS, KEPT, KNOTS, RIDGE, FittedValue


def lengths_mask(lengths: list[int], width: int) -> torch.Tensor:
    return (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).float()


def rewards_of_length(lengths: list[int], width: int, best: int) -> torch.Tensor:
    """What each token adds to -|length - best|."""
    score = -(torch.arange(width + 1) - best).abs().float()
    return score.diff()[None] * lengths_mask(lengths, width)


def test_values_equal_a_ridge_regression_on_the_rows_of_other_parts():
    torch.manual_seed(0)
    lengths = torch.randint(1, 13, (19,)).tolist()
    mask = lengths_mask(lengths, 12)
    rewards, scores = torch.randn(19, 12) * mask, torch.randn(19, 12) * mask
    fitted = FittedValue(12)
    for _ in range(2):  # the second time what was seen before counts KEPT as much
        before = fitted.moments.clone(), fitted.targets.clone()
        values = fitted.update(rewards, mask, scores)
        for row in range(19):
            states, to_come = [], []
            for other in range(19):
                if other % FOLDS == row % FOLDS:
                    continue
                for t in range(lengths[other]):
                    states.append(fitted.basis(mask[other:other + 1], torch.full((1, 12), scores[other, :t].sum().item()))[0, t])
                    to_come.append(rewards[other, t:].sum().double())
            x, y = torch.stack(states), torch.stack(to_come)
            moments, targets = before[0] + x.T @ x, before[1] + x.T @ y
            size = moments.diag()
            weights = torch.linalg.solve(moments + torch.diag(RIDGE * size + 1e-6 * size.max()), targets)
            for t in range(lengths[row]):
                state = fitted.basis(mask[row:row + 1], torch.full((1, 12), scores[row, :t].sum().item()))[0, t]
                assert values[row, t].item() == pytest.approx((state @ weights).item(), abs=1e-4)
        assert (values[mask == 0] == 0).all()
    assert KEPT < 1 and fitted.moments.shape == (2 * KNOTS, 2 * KNOTS)


def test_it_knows_what_a_length_still_costs():
    """All responses go on for 20 tokens where 10 are best: after 10 tokens, 10 more cost 10."""
    mask = lengths_mask([20] * 32, 20)
    rewards = rewards_of_length([20] * 32, 20, 10)
    values = FittedValue(20).update(rewards, mask, rewards)
    assert values[:, 10].mean().item() == pytest.approx(-10, abs=1) and values[:, 0].abs().max() < 1


def test_a_rows_own_luck_is_not_in_its_value():
    mask = lengths_mask([5] * FOLDS, 5)
    rewards = torch.zeros(FOLDS, 5)
    usual = FittedValue(5).update(rewards, mask, None)
    rewards[3, 4] = 100.0
    assert torch.equal(FittedValue(5).update(rewards, mask, None)[3], usual[3])


def test_the_state_goes_on():
    torch.manual_seed(1)
    mask = lengths_mask([4, 7, 2], 7)
    first, second = FittedValue(7), FittedValue(7)
    first.update(torch.randn(3, 7), mask, torch.randn(3, 7))
    second.load_state_dict(first.state_dict())
    rewards = torch.randn(3, 7)
    assert torch.equal(first.update(rewards, mask, None), second.update(rewards, mask, None))


@pytest.mark.parametrize("longest, lengths", [(1, [1]), (1, [1, 1]), (96, [3]), (8, [1, 8])])
def test_few_and_short_rows(longest, lengths):
    values = FittedValue(longest).update(torch.ones(len(lengths), max(lengths)), lengths_mask(lengths, max(lengths)), None)
    assert values.isfinite().all()
