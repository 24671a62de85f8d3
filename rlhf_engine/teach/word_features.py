"""What the live reward reads of a response: how much it holds of each of some hundred words, as the base understands words.

Each word of a response (or sign; see `Splitter`) is compared with landmarks, the mean states in which the frozen base holds the
commonest words of the anchors, at its embedding (which word is it) and at its middle (what is it here). The comparison is a Gaussian
kernel on directions, sharp enough to tell "!" from "." and wide enough to take "bunny" for "rabbit". A few dozen votes cannot say what
each of thousands of words is worth; they can say which few of these soft words are worth anything at all (`live_reward.fit`).
"""

from collections import Counter
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F

from rlhf_engine.errors import noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches
from rlhf_engine.model.prefix_packing import packed_passes, reading_order

Row = tuple[list[int], list[int]]
"""Token ids of a prompt and of a response."""
Word = tuple[int, ...]
"""The token ids that spell it."""
DEPTHS = 2
"""The embedding and the middle, of the three of `Backbone.depths`."""
LANDMARKS = 1024
"""Words, at most, to compare with."""
MARKS = ("▁", "Ġ")
"""What a token begins with that has a space before it, in a vocabulary that knows such tokens."""
SPACED = 0x0E00
"""The first letter from which on scripts (Thai, Chinese, ...) may set words without spaces; there, each token is a word."""
WIDTH = 0.3
"""Width of the kernel: exp((cosine - 1) / WIDTH)."""
EVENED = 0.5
"""A feature is divided by its spread on the anchors to this power: at 1 a rare word is as much of a feature as a common one."""


class Splitter:
    """Where words end in a sequence of tokens. A word is a run of tokens that spell it; a sign, or a token of a vocabulary that does not
    say where its words begin, is one of its own."""

    def __init__(self, tokenizer):
        ids = list(range(len(tokenizer)))
        pieces = [piece or "" for piece in tokenizer.convert_ids_to_tokens(ids)]
        starts = [piece.startswith(MARKS) for piece in pieces]
        firsts = [text.strip()[:1] for text in tokenizer.batch_decode([[i] for i in ids])]
        spelled = [piece in MARKS or (first.isalnum() and ord(first) < SPACED) for piece, first in zip(pieces, firsts)]
        # One more for ids that a base has and its tokenizer does not.
        self.spelled = torch.tensor([*spelled, False])
        self.continues = self.spelled & ~torch.tensor([*starts, False]) & any(starts)
        """[V]: whether a token spells (part of) a word, and whether it goes on with that of the token before it, if that spells one."""

    def ends(self, tokens: list[int]) -> torch.Tensor:
        """[T]: whether a word ends with a token. The last one ends what there is."""
        ids = torch.tensor(tokens, dtype=torch.long).clamp(max=len(self.spelled) - 1)
        return torch.cat([~(self.continues[ids[1:]] & self.spelled[ids[:-1]]), torch.ones(min(len(ids), 1), dtype=torch.bool)])

    def words(self, tokens: list[int]) -> list[Word]:
        stops = (self.ends(tokens).nonzero()[:, 0] + 1).tolist()
        return [tuple(tokens[start:stop]) for start, stop in zip([0, *stops], stops)]


class WordFeatures:
    """`fit(rows)` once, then `read(rows)`: features [N, D] on the CPU, centred on the rows fitted to, and of size 1 there (the root of
    the mean over rows of the squares' sum). Feature k of each depth belongs to the word `chosen[k]`, a tuple of token ids."""

    def __init__(self, backbone: Backbone, *, batch: int, on_microbatch: Callable[[], None] = noop):
        self.backbone, self.batch, self.on_microbatch = backbone, batch, on_microbatch
        self.splitter = Splitter(backbone.tokenizer)
        self.chosen: list[Word] = []
        self.tables: list[dict[str, torch.Tensor]] = []
        """For each depth, of states of size d: their `mean` and `std` [d], and the `landmarks` [L, d], of length 1."""
        self.centre, self.size = torch.zeros(()), torch.ones(())

    def fit(self, rows: list[Row]) -> torch.Tensor:
        """Choose the landmarks; returns what `read` says of the same rows."""
        counts = Counter(word for _, response in rows for word in self.splitter.words(response))
        self.chosen = sorted(word for word, count in counts.most_common(LANDMARKS) if count > 1)
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
        found = torch.zeros(len(rows), DEPTHS * len(self.chosen))
        for part, owners, alike in self._alike(rows):
            counts = owners.bincount(minlength=len(part)).clamp(min=1)[:, None]
            pooled = [torch.zeros(len(part), each.shape[1], device=each.device).index_add_(0, owners, each) / counts for each in alike]
            found[part] = torch.cat(pooled, dim=1).cpu()
        return (found - self.centre) / self.size

    @torch.no_grad()
    def token_contributions(self, rows: list[Row], weights: torch.Tensor) -> list[torch.Tensor]:
        """What each position adds to `read(rows) @ weights.T`: [T, M] for each row. A word adds it where it ends; one that is like the
        anchors' on average adds nothing."""
        turned = weights / self.size
        usual = turned @ self.centre.expand(turned.shape[1])
        found = [torch.zeros(len(response), len(weights)) for _, response in rows]
        for part, owners, alike in self._alike(rows):
            adds = sum(each @ share.T.to(each.device) for each, share in zip(alike, turned.chunk(DEPTHS, dim=1))).cpu() - usual
            for i, each in zip(part, adds.split(owners.bincount(minlength=len(part)).tolist())):
                found[i][self.splitter.ends(rows[i][1])] = each / max(len(each), 1)
        return found

    @torch.no_grad()
    def word_weights(self, weights: torch.Tensor) -> torch.Tensor:
        """[L, M]: what the word `chosen[k]`, as it mostly is, adds to `read(rows) @ weights.T`, times the number of words."""
        turned = weights / self.size
        alike = (torch.exp((table["landmarks"] @ table["landmarks"].T - 1) / WIDTH).cpu() for table in self.tables)
        return sum(each @ share.T for each, share in zip(alike, turned.chunk(DEPTHS, dim=1))) - turned @ self.centre.expand(turned.shape[1])

    # -- inside ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _tables(self, rows: list[Row]) -> list[dict[str, torch.Tensor]]:
        """The rows are gone through once, whatever their number."""
        places = {word: k for k, word in enumerate(self.chosen)}
        total, seen = 0, torch.zeros(len(places), device=self.backbone.device)
        sums, squares, marks = ([0.0] * DEPTHS for _ in range(3))
        for part, owners, states in self._states(rows):
            place = torch.tensor([places.get(word, -1) for i in part for word in self.splitter.words(rows[i][1])], device=owners.device)
            common, total = place >= 0, total + len(owners)
            seen += torch.bincount(place[common], minlength=len(seen))
            for depth, h in enumerate(states):
                sums[depth] = sums[depth] + h.sum(0, dtype=torch.double)
                squares[depth] = squares[depth] + h.double().square().sum(0)
                marks[depth] = marks[depth] + torch.zeros(len(seen), h.shape[1], device=h.device).index_add_(0, place[common], h[common])
        tables = []
        for sum_, square, mark in zip(sums, squares, marks):
            mean = sum_ / total
            std = (square / total - mean.square()).clamp(min=1e-8).sqrt().float()
            tables.append({"mean": mean.float(), "std": std, "landmarks": F.normalize((mark / seen[:, None] - mean.float()) / std, dim=1)})
        return tables

    def _alike(self, rows: list[Row]) -> Iterator[tuple]:
        """`_states`, compared with the landmarks: (places of the rows, owners [W], [W, L] for each depth)."""
        for part, owners, states in self._states(rows):
            cosines = [F.normalize((h - table["mean"]) / table["std"], dim=1) @ table["landmarks"].T
                       for h, table in zip(states, self.tables)]
            yield part, owners, [torch.exp((cosine - 1) / WIDTH) for cosine in cosines]

    def _states(self, rows: list[Row]) -> Iterator[tuple]:
        """Of the words W of the responses of a few rows at a time: (places of the rows, which of these a word belongs to [W], its states
        [W, d]: the mean embedding of its tokens, and the middle's at its last), in fp32 on the base's device."""
        whole = [prompt + response for prompt, response in rows]
        for places in micro_batches(reading_order(self.backbone, whole), self.batch):
            for each in packed_passes(self.backbone, [whole[i] for i in places]):
                part = [places[i] for i in each.indices]
                columns = [columns[len(rows[i][0]):] for i, columns in zip(part, each.columns)]
                where = each.at(columns)
                with self.backbone.use(None):
                    embedding, middle = (h[where].float() for h in self.backbone.depths(each.ids, **each.options)[:DEPTHS])
                last = torch.cat([self.splitter.ends(rows[i][1]) for i in part]).to(embedding.device)
                word = last.cumsum(0) - last.long()
                tokens = word.bincount(minlength=int(last.sum()))[:, None]
                spelled = torch.zeros(len(tokens), embedding.shape[1], device=last.device).index_add_(0, word, embedding) / tokens
                owners = torch.tensor([i for i, found in enumerate(columns) for _ in found], dtype=torch.long, device=last.device)
                yield part, owners[last], [spelled, middle[last]]
                self.on_microbatch()

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        return {"chosen": self.chosen, "tables": self.tables, "centre": self.centre, "size": self.size}

    def load_state_dict(self, state: dict) -> None:
        self.chosen, self.centre, self.size = [tuple(word) for word in state["chosen"]], state["centre"], state["size"]
        self.tables = [{name: tensor.to(self.backbone.device) for name, tensor in table.items()} for table in state["tables"]]
