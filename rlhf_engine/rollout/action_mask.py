"""The mask of NLPO (Ramamurthy et al. 2022): a policy that may choose only among the likely tokens of a mask policy.

The allowed tokens of a place are the fewest of the mask policy's most likely ones whose probabilities, at the sampling
temperature, sum to `top_p`. The first token that goes beyond it is kept. Tokens that end a response and other special
tokens are always allowed. Log-probabilities are those of a choice among the allowed tokens alone.

Masks [tokens, V] are never kept. A rollout keeps the hidden states of its mask policy, and each pass makes the sets
anew from them. So the sets of the update are those of the rollout's own mask policy.
"""

from dataclasses import dataclass

import torch

from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.decoders import Decoder
from rlhf_engine.model.generation import make_decoder, nucleus
from rlhf_engine.model.logprobs import TokenReadings, read_states
from rlhf_engine.rollout.rollout import Batch, Rollout

ROLE = "mask"
"""The role of the mask policy."""
TOKENS_FOR_ONE, MOST_KEPT = 500, 100
"""By default one token is kept for so many of the vocabulary, and no more than so many: the authors keep 100 of GPT-2's
50,257."""


def default_tokens_kept(vocabulary: int) -> int:
    """Tokens that a mask keeps at least, for a vocabulary of this size."""
    return min(MOST_KEPT, max(1, vocabulary // TOKENS_FOR_ONE))


def special_tokens(backbone: Backbone) -> list[int]:
    """Ids of the tokens that end a response and of the tokenizer's other special tokens, where the model knows them."""
    ids = {*backbone.stop_ids, *backbone.tokenizer.all_special_ids}
    return sorted(token for token in ids if 0 <= token < backbone.vocabulary)


@dataclass(frozen=True)
class ActionMask:
    """The rule by which tokens are allowed."""

    top_p: float
    """Probability under the mask policy that the allowed tokens have together, at least."""
    temperature: float
    """Divides the mask policy's logits, as in sampling."""
    least: int = 1
    """Tokens that are allowed at least."""
    always: tuple[int, ...] = ()
    """Tokens that are allowed everywhere."""

    def allowed(self, logits: torch.Tensor) -> torch.Tensor:
        """The allowed tokens: logits [N, V] of the mask policy -> bool [N, V]."""
        probabilities = (logits.float() / self.temperature).softmax(-1)
        allowed = nucleus(probabilities, self.top_p)
        if self.least > 1:
            allowed.scatter_(-1, probabilities.topk(min(self.least, logits.shape[-1])).indices, True)
        allowed[:, list(self.always)] = True
        return allowed


# -- sampling ----------------------------------------------------------------------------------------------------------

class MaskedDecoder:
    """A `Decoder` of the role in use, whose logits are -inf at the tokens that the mask policy does not allow.

    It steps two decoders side by side, each with a cache of its own.
    """

    def __init__(self, backbone: Backbone, mask: ActionMask, rows: int, longest: int):
        self.backbone = backbone
        self.mask = mask
        self.policy: Decoder = make_decoder(backbone, rows, longest)
        with backbone.use(ROLE):
            self.mask_policy: Decoder = make_decoder(backbone, rows, longest)

    def __call__(self, ids: torch.Tensor, positions: torch.Tensor, hidden: torch.Tensor | None = None) -> torch.Tensor:
        logits = self.policy(ids, positions, hidden)
        with self.backbone.use(ROLE):
            mask_logits = self.mask_policy(ids, positions, hidden)
        logits = logits.masked_fill(~self.mask.allowed(mask_logits), -torch.inf)
        # Where the mask policy gives no numbers there is no set: whoever samples from NaN is told.
        return logits.masked_fill(~mask_logits.isfinite().all(-1, keepdim=True), torch.nan)

    def keep(self, rows: torch.Tensor) -> None:
        self.policy.keep(rows)
        self.mask_policy.keep(rows)


# -- reading -----------------------------------------------------------------------------------------------------------

class TokenSets:
    """The allowed tokens at N places, made anew for each slice of them (`logprobs.AllowedTokens`).

    The token that was sampled at a place is always a member. Sampling and training round differently, so at the edge of
    a set they may disagree.

    Args:
        backbone: has the mask policy.
        mask: the rule.
        states: [N, d], hidden states of the mask policy, from which the tokens are predicted.
        sampled: [N], the tokens that were sampled.
    """

    def __init__(self, backbone: Backbone, mask: ActionMask, states: torch.Tensor, sampled: torch.Tensor):
        self.backbone, self.mask, self.states, self.sampled = backbone, mask, states, sampled
        self.added = torch.zeros(len(states), dtype=torch.bool, device=states.device)
        """[N]: whether the sampled token had to be added."""

    @torch.no_grad()
    def __call__(self, places: slice) -> torch.Tensor:
        with self.backbone.use(ROLE):  # whose output layer may have an adapter
            allowed = self.mask.allowed(self.backbone.head(self.states[places]))
        sampled = self.sampled[places, None]
        self.added[places] = ~allowed.gather(-1, sampled)[:, 0]
        return allowed.scatter_(-1, sampled, True)


class MaskReadings:
    """What the mask policy says about a rollout, and the masked log-probabilities of the policy that sampled it."""

    def __init__(self, mask: ActionMask, rollout: Rollout):
        self.mask = mask
        self.logprobs = torch.zeros_like(rollout.mask)
        """[B, R]: log-probabilities of the sampled tokens among the allowed ones, in nats."""
        self.kept = torch.zeros_like(rollout.mask)
        """[B, R]: the probability that all allowed tokens have together under the policy."""
        self.added = torch.zeros_like(rollout.mask)
        """[B, R]: 1 where the sampled token had to be added to its set."""
        self.states: list[torch.Tensor] = [torch.empty(0) for _ in range(len(rollout))]
        """For each row the mask policy's hidden states [tokens, d], on the CPU: d numbers a token, where the cache of
        sampling had 2 L G h (L blocks, G key heads of size h)."""

    @torch.no_grad()
    def measure(self, batch: Batch, hidden: torch.Tensor) -> None:
        """Fill in the rows of a micro-batch, whose tokens the policy predicts from `hidden` [N, d]."""
        with batch.backbone.use(ROLE):
            states = batch.backbone.hidden(batch.ids)[batch.positions]
        sets = TokenSets(batch.backbone, self.mask, states, batch.sampled)
        with batch.backbone.use("policy"):
            reading = read_states(batch.backbone, hidden, batch.sampled, self.mask.temperature, allowed=sets)
        assert reading.log_kept is not None
        batch.store(reading.logprobs, self.logprobs)
        batch.store(reading.log_kept.exp(), self.kept)
        batch.store(sets.added.float(), self.added)
        for row, of_row in zip(batch.rows, states.cpu().split([len(ids) for ids in batch.responses])):
            self.states[row] = of_row

    def read(self, batch: Batch, *, entropy: bool = False) -> TokenReadings:
        """What the role in use says about the tokens of a micro-batch when it chooses among the allowed ones."""
        states = torch.cat([self.states[row] for row in batch.rows]).to(batch.backbone.device)
        sets = TokenSets(batch.backbone, self.mask, states, batch.sampled)
        hidden = batch.backbone.hidden(batch.ids)[batch.positions]
        return read_states(batch.backbone, hidden, batch.sampled, self.mask.temperature, entropy=entropy, allowed=sets)
