"""What the live reward reads of a response: how much it holds of each of some hundred words, as the base knows them.

Each word of a response (or sign; see `Splitter`) is compared with landmarks. These are the mean states in which the
frozen base holds the commonest words of the anchors, at its embedding (which word is it) and at its middle (what does
it mean here). The comparison is a Gaussian kernel on directions, sharp enough to tell "!" from "." and wide enough to
take "bunny" for "rabbit". A few dozen votes cannot tell the value of each of thousands of words. They can tell which
few of these soft words have any value at all (`reward_fit.fit_sparse`).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from rlhf_engine.errors import UserError, noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches
from rlhf_engine.model.logprobs import chunk_size, read_logits
from rlhf_engine.model.prefix_packing import PackedBatch, packed_passes, reading_order

Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of a response."""
Word = tuple[int, ...]
"""The token ids that spell it."""
DEPTHS = 2
"""The embedding and the middle, of the three of `Backbone.depths`."""
LANDMARKS = 1024
"""Words, at most, to compare with."""
SPACE_MARKS = ("▁", "Ġ")
"""First characters of a token that has a space before it, in a vocabulary with such tokens."""
FIRST_UNSPACED = 0x0E00
"""First character of the scripts that may set words without spaces (Thai, Chinese, ...). There a token is a word."""
WIDTH = 0.3
"""Width of the kernel: exp((cosine - 1) / WIDTH)."""
EVENED = 0.5
"""A feature is divided by its spread on the anchors to this power. At 1, rare words would count like common ones."""


class Part(NamedTuple):
    """Some rows whose words have been read together: W words in all."""

    rows: list[int]
    """Indices of the rows."""
    owners: torch.Tensor
    """[W]: which of `rows` each word belongs to, counted from 0."""
    depths: list[torch.Tensor]
    """For each depth, of states of size d or similarities to L landmarks: [W, d] or [W, L]."""
    lengths: torch.Tensor
    """[W]: the number of tokens of each word."""
    logprobs: torch.Tensor
    """[W]: the log-probability of each word's tokens under the base, in nats; 0 unless it was asked for."""


class Splitter:
    """Finds where words end in a sequence of tokens.

    A word is a run of tokens that spell it. A sign is a word of its own, and so is each token of a vocabulary that does
    not mark where its words begin.
    """

    def __init__(self, tokenizer):
        ids = list(range(len(tokenizer)))
        pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(ids)]
        starts = [piece.startswith(SPACE_MARKS) for piece in pieces]
        firsts = [text.strip()[:1] for text in tokenizer.batch_decode([[i] for i in ids])]
        spells = [piece in SPACE_MARKS or (first.isalnum() and ord(first) < FIRST_UNSPACED)
                  for piece, first in zip(pieces, firsts)]
        # One more for ids that a base has and its tokenizer does not.
        self.spells = torch.tensor([*spells, False])
        """[V]: whether a token spells a word or a part of one."""
        self.continues = self.spells & ~torch.tensor([*starts, False]) & any(starts)
        """[V]: whether a token continues the word of the token before it, if that spells one."""

    def ends(self, tokens: list[int]) -> torch.Tensor:
        """[T]: whether a word ends with a token. The last token always ends one."""
        ids = torch.tensor(tokens, dtype=torch.long).clamp(max=len(self.spells) - 1)
        inner = ~(self.continues[ids[1:]] & self.spells[ids[:-1]])
        return torch.cat([inner, torch.ones(min(len(ids), 1), dtype=torch.bool)])

    def words(self, tokens: list[int]) -> list[Word]:
        """The words of a sequence."""
        stops = (self.ends(tokens).nonzero()[:, 0] + 1).tolist()
        return [tuple(tokens[start:stop]) for start, stop in zip([0, *stops], stops)]


class WordFeatures:
    """Features [N, D] of responses, on the CPU: `fit(rows)` once, then `read(rows)`.

    They are centred on the rows that they were fitted to, and of size 1 there (the root of the mean over rows of the
    sum of squares). Feature k of each depth belongs to the word `chosen[k]`.
    """

    def __init__(self, backbone: Backbone, *, batch: int, on_microbatch: Callable[[], None] = noop):
        self.backbone, self.batch, self.on_microbatch = backbone, batch, on_microbatch
        self.splitter = Splitter(backbone.tokenizer)
        self.chosen: list[Word] = []
        """The words of the landmarks."""
        self.tables: list[dict[str, torch.Tensor]] = []
        """For each depth, of states of size d: their `mean` and `std` [d], and the `landmarks` [L, d], of length 1."""
        self.centre, self.size = torch.zeros(()), torch.ones(())
        """[D]: a feature is (raw - centre) / size."""

    def fit(self, rows: list[Row]) -> torch.Tensor:
        """Choose the landmarks; returns the features of the same rows.

        They are the most common words that come more than once; where none does, all of them. Raises UserError where
        there are none.
        """
        counts: Counter[Word] = Counter()
        for _, response in rows:
            counts.update(self.splitter.words(response))
        common = counts.most_common(LANDMARKS)
        self.chosen = sorted(word for word, count in common if count > 1) or sorted(word for word, _ in common)
        if not self.chosen:
            raise UserError(f"the {len(rows)} answers of the starting policy hold no word that a reward could learn; "
                            "raise --max-new-tokens or --reference-samples, or start from another adapter")
        self.tables = self._tables(rows)
        self.centre, self.size = torch.zeros(()), torch.ones(())
        raw = self.read(rows)
        spread = raw.std(0, correction=0).clamp(min=1e-6)
        self.centre = raw.mean(0)
        evened = (raw - self.centre) / spread**EVENED
        self.size = spread**EVENED * evened.square().sum(1).mean().sqrt().clamp(min=1e-6)
        return (raw - self.centre) / self.size

    @torch.no_grad()
    def read(self, rows: list[Row]) -> torch.Tensor:
        """[N, D]: the features of rows."""
        raw = torch.zeros(len(rows), DEPTHS * len(self.chosen))
        for part in self.similarities(rows):
            count = len(part.rows)
            words = part.owners.bincount(minlength=count).clamp(min=1)[:, None]
            pooled = []
            for each in part.depths:
                sums = torch.zeros(count, each.shape[1], device=each.device).index_add_(0, part.owners, each)
                pooled.append(sums / words)
            raw[part.rows] = torch.cat(pooled, dim=1).cpu()
        return (raw - self.centre) / self.size

    @torch.no_grad()
    def token_contributions(self, rows: list[Row], weights: torch.Tensor) -> list[torch.Tensor]:
        """What each position adds to `read(rows) @ weights.T`: [T, M] for each row.

        A word adds it at its last token. One that is like the anchors' words on average adds nothing.
        """
        scaled = weights / self.size
        usual = scaled @ self.centre.expand(scaled.shape[1])
        contributions = [torch.zeros(len(response), len(weights)) for _, response in rows]
        for part in self.similarities(rows):
            adds = self._weighted(part.depths, scaled).cpu() - usual
            counts = part.owners.bincount(minlength=len(part.rows)).tolist()
            for i, each in zip(part.rows, adds.split(counts)):
                contributions[i][self.splitter.ends(rows[i][1])] = each / max(len(each), 1)
        return contributions

    @torch.no_grad()
    def word_weights(self, weights: torch.Tensor) -> torch.Tensor:
        """[L, M]: what the word `chosen[k]` adds on average to `read(rows) @ weights.T`, times the number of words."""
        scaled = weights / self.size
        return self._weighted(self.landmark_similarities(), scaled) - scaled @ self.centre.expand(scaled.shape[1])

    def landmark_similarities(self) -> list[torch.Tensor]:
        """For each depth, those of each landmark to each: [L, L], on the CPU."""
        return [torch.exp((table["landmarks"] @ table["landmarks"].T - 1) / WIDTH).cpu() for table in self.tables]

    @torch.no_grad()
    def similarities(self, rows: list[Row], *, logprobs: bool = False) -> Iterator[Part]:
        """The words of a few rows at a time, compared with the landmarks: [W, L] for each depth."""
        for part in self._states(rows, logprobs):
            similarities = []
            for h, table in zip(part.depths, self.tables):
                cosine = F.normalize((h - table["mean"]) / table["std"], dim=1) @ table["landmarks"].T
                similarities.append(torch.exp((cosine - 1) / WIDTH))
            yield part._replace(depths=similarities)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _weighted(self, depths: list[torch.Tensor], weights: torch.Tensor) -> torch.Tensor:
        """[W, M]: similarities [W, L] of each depth times the share of weights [M, D] that belongs to the depth."""
        total = torch.zeros(())
        for each, share in zip(depths, weights.chunk(DEPTHS, dim=1)):
            total = total.to(each.device) + each @ share.T.to(each.device)
        return total

    @torch.no_grad()
    def _tables(self, rows: list[Row]) -> list[dict[str, torch.Tensor]]:
        """Mean, spread and landmarks of each depth. The rows are read once, whatever their number."""
        index_of = {word: k for k, word in enumerate(self.chosen)}
        device = self.backbone.device
        total, seen = 0, torch.zeros(len(index_of), device=device)
        zero = torch.zeros((), device=device)
        sums, squares, marks = [zero] * DEPTHS, [zero] * DEPTHS, [zero] * DEPTHS
        for part in self._states(rows):
            words: list[Word] = []
            for i in part.rows:
                words += self.splitter.words(rows[i][1])
            landmark = torch.tensor([index_of.get(word, -1) for word in words], device=device)
            common = landmark >= 0
            total += len(part.owners)
            seen += torch.bincount(landmark[common], minlength=len(seen))
            for depth, h in enumerate(part.depths):
                sums[depth] = sums[depth] + h.sum(0, dtype=torch.double)
                squares[depth] = squares[depth] + h.double().square().sum(0)
                added = torch.zeros(len(seen), h.shape[1], device=device).index_add_(0, landmark[common], h[common])
                marks[depth] = marks[depth] + added
        tables = []
        for sum_, square, mark in zip(sums, squares, marks):
            mean = sum_ / total
            std = (square / total - mean.square()).clamp(min=1e-8).sqrt().float()
            landmarks = F.normalize((mark / seen[:, None] - mean.float()) / std, dim=1)
            tables.append({"mean": mean.float(), "std": std, "landmarks": landmarks})
        return tables

    def _states(self, rows: list[Row], logprobs: bool = False) -> Iterator[Part]:
        """The words of a few rows at a time, with their states [W, d] in fp32 on the base's device.

        They are the mean embedding of a word's tokens, and the middle state at its last token.
        """
        whole = [prompt + response for prompt, response in rows]
        for batch in micro_batches(reading_order(self.backbone, whole), self.batch):
            for packed in packed_passes(self.backbone, [whole[i] for i in batch]):
                indices = [batch[i] for i in packed.indices]
                columns = [columns[len(rows[i][0]):] for i, columns in zip(indices, packed.columns)]
                yield self._word_states(rows, indices, columns, packed, logprobs)
                self.on_microbatch()

    def _word_states(self, rows: list[Row], indices: list[int], columns: list[list[int]], packed: PackedBatch,
                     logprobs: bool) -> Part:
        """The words of one packed pass. `columns` has the columns of the response tokens of each of the rows."""
        tokens_at = packed.at(columns)
        with self.backbone.use(None):
            *depths, end = self.backbone.depths(packed.ids, **packed.options)
        embedding, middle = (h[tokens_at].float() for h in depths)
        last = torch.cat([self.splitter.ends(rows[i][1]) for i in indices]).to(embedding.device)
        word = last.cumsum(0) - last.long()
        lengths = word.bincount(minlength=int(last.sum()))
        sums = torch.zeros(len(lengths), embedding.shape[1], device=last.device).index_add_(0, word, embedding)
        owners: list[int] = []
        for number, each in enumerate(columns):
            owners += [number] * len(each)
        owner = torch.tensor(owners, dtype=torch.long, device=last.device)
        likely = torch.zeros(len(lengths), device=last.device)
        if logprobs:
            likely.index_add_(0, word, self._logprobs(packed, columns, packed.ids[tokens_at], end))
        return Part(indices, owner[last], [sums / lengths[:, None], middle[last]], lengths, likely)

    def _logprobs(self, packed: PackedBatch, columns: list[list[int]], targets: torch.Tensor,
                  end: torch.Tensor) -> torch.Tensor:
        """[T]: the log-probability of each response token, from the last states [B, T, d] of one packed pass.

        The first token of a row without a prompt has none before it, and counts 0.
        """
        first, before = [], []
        for whole, each in zip(packed.columns, columns):
            start = len(whole) - len(each)
            before.append(whole[max(start - 1, 0):start] + each[:-1] if start else each[:1] + each[:-1])
            first += [start == 0 and number == 0 for number in range(len(each))]
        states = end[packed.at(before)]
        chunk = chunk_size(states.device, self.backbone.vocabulary)
        found = []
        for h, target in zip(states.split(chunk), targets.split(chunk)):
            found.append(read_logits(self.backbone.head(h), target, 1.0, False)[0])
        result = torch.cat(found) if found else torch.zeros(0, device=targets.device)
        return result.masked_fill(torch.tensor(first, dtype=torch.bool, device=result.device), 0.0)

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        return {"chosen": self.chosen, "tables": self.tables, "centre": self.centre, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        self.chosen, self.centre, self.size = [tuple(word) for word in state["chosen"]], state["centre"], state["size"]
        device = self.backbone.device
        self.tables = []
        for table in state["tables"]:
            self.tables.append({name: tensor.to(device) for name, tensor in table.items()})
