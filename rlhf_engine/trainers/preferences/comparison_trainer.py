"""What the reward model and DPO share: a batch element is a prompt with all its compared responses."""

from typing import Any, TypeVar

from rlhf_engine.config import DPOConfig, RewardConfig
from rlhf_engine.data.batches import batch_of, step_count
from rlhf_engine.model.batching import RowLength
from rlhf_engine.trainers.base import Trainer
from rlhf_engine.trainers.preferences.comparisons import padded_tokens

PreferenceConfig = TypeVar("PreferenceConfig", RewardConfig, DPOConfig)


class ComparisonTrainer(Trainer[PreferenceConfig]):
    """A trainer on groups: prompts with responses that were compared, ranked, or judged one by one.

    A subclass sets `groups` and `held_out`, then calls `apply_config`.
    """

    groups: list[Any]
    """The batch elements to train on."""
    held_out: list[Any]

    def apply_config(self) -> None:
        config = self.config
        self.total_steps = step_count(len(self.groups), config.batch_size, config.epochs, config.steps)

    def row_length(self, row: int) -> int:
        """Tokens of all responses of a group, each with the prompt, padding included."""
        return padded_tokens(self.groups[row])

    def largest_group(self) -> tuple[int, int]:
        """(tokens of the longest row, tokens of the largest group with its padding), held-out ones included."""
        groups = [*self.groups, *self.held_out]
        return max(len(row) for group in groups for row in group.rows), max(map(padded_tokens, groups))

    def step_batch(self) -> tuple[list[int], RowLength | None]:
        """The groups of this step by index, and their length where passes are cut by length: in that order, then."""
        lengths = [sum(map(len, group.rows)) for group in self.groups]
        batch = batch_of(self.step, lengths, self.config.batch_size, self.config.seed)
        if not self.pass_tokens:
            return batch, None
        return sorted(batch, key=self.row_length), self.row_length
