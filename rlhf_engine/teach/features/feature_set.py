"""What the live reward reads of a response, in groups: its words, the words of its places, and curves over its numbers.

The set is versioned: `WORDS_ONLY` is that of the first version, `SHAPES` has no `pattern` and no beginnings of
sentences. Runs that began with one go on with it.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from rlhf_engine.errors import noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.teach.features import pattern, prompt_relation, shape
from rlhf_engine.teach.features.numbers import Curves
from rlhf_engine.teach.features.phrases import PHRASES, phrase_at, phrase_with
from rlhf_engine.teach.features.place_words import FEWEST, PlaceWords, Words
from rlhf_engine.teach.features.prompt_relation import PromptWords, Relation
from rlhf_engine.teach.features.text_words import Place, TextWords, trace
from rlhf_engine.teach.features.word_endings import WordEndings
from rlhf_engine.teach.word_features import DEPTHS, EVENED, WIDTH, Row, Word, WordFeatures

WORDS_ONLY, SHAPES, NEWEST = 1, 2, 3
"""Versions of the set."""
SHAPE_NUMBERS = (*shape.NAMES, *Relation.NAMES, "nearness", "likelihood")
NUMBERS = (*SHAPE_NUMBERS, *pattern.NAMES)
"""The numbers of `SHAPES` and of the newest version, in the order of their features."""
SHAPE_PLACES = ("opening", "first", "last", "late")
"""The places of `SHAPES`."""
SHRUNK = 8
"""Tokens of the anchors' mean likelihood that are mixed into that of a response: its first token says little."""


class Reading(NamedTuple):
    """What is read of one response: W words and signs."""

    numbers: torch.Tensor
    """[W, P]: the numbers after each of them."""
    words: Words


class FeatureSet:
    """Features [N, D] of responses, on the CPU: `fit(rows)` once, then `read(rows)`.

    Each group of features is centred on the rows that it was fitted to, and of size 1 there (`groups`).
    """

    def __init__(self, backbone: Backbone, *, batch: int, on_microbatch: Callable[[], None] = noop,
                 version: int = NEWEST):
        self.backbone, self.version = backbone, version
        self.words = WordFeatures(backbone, batch=batch, on_microbatch=on_microbatch)
        self.texts = TextWords(backbone.tokenizer, backbone.stop_ids, self.words.splitter)
        self.prompt_words = PromptWords()
        self.numbers = {WORDS_ONLY: (), SHAPES: SHAPE_NUMBERS}.get(version, NUMBERS)
        """The names of its numbers."""
        self.places = [PlaceWords(place) for place in {WORDS_ONLY: (), SHAPES: SHAPE_PLACES}.get(version, FEWEST)]
        self.endings = WordEndings()
        """Of the newest version; the others have none."""
        self.curves = Curves()
        self.likelihood = 0.0
        """Mean log-probability of a token of the anchors under the base, in nats."""
        self.embeddings = (torch.zeros(()), torch.ones(()))
        """Mean and spread [d] of the embeddings of the landmarks' words."""
        self._directions: dict[Word, torch.Tensor] = {}
        self._prompts: dict[tuple[int, ...], tuple[list[str], dict[str, float], dict[str, Word]]] = {}

    @property
    def groups(self) -> dict[str, slice]:
        """The columns of each group of features, by its name."""
        start = DEPTHS * len(self.words.chosen)
        found = {"words": slice(0, start)}
        for place in self._parts:
            found[place.place] = slice(start, start + place.width)
            start = found[place.place].stop
        if self.version > WORDS_ONLY:
            for name, columns in zip(self.numbers, self.curves.slices):
                found[name] = slice(start + columns.start, start + columns.stop)
        return found

    @property
    def soft_words(self) -> list[str]:
        """Names of the groups whose features are words, of which few matter."""
        return ["words", *(place.place for place in self._parts)]

    @property
    def _parts(self) -> list[PlaceWords]:
        """The groups that sum up words, besides the words of the whole response."""
        return [*self.places, self.endings] if self.version > SHAPES else self.places

    def fit(self, rows: list[Row]) -> torch.Tensor:
        """Learn from responses of the starting policy what is usual; returns their features."""
        words = self.words.fit(rows)
        if self.version == WORDS_ONLY:
            return words
        self._prompts, self._directions = {}, {}
        states = torch.stack([self._embedding(word) for word in self.words.chosen])
        self.embeddings = states.mean(0), states.std(0, correction=0).clamp(min=1e-4)
        self.prompt_words = PromptWords()
        for prompt, response in rows:
            self.prompt_words.add(set(self._spelled(prompt)), set(self._spelled(response)))
        self._choose_landmarks(rows)
        _, places, numbers = self._sums(rows)
        scaled = [place.scale(raw, EVENED) for place, raw in zip(self._parts, places)]
        return torch.cat([words, *scaled, self.curves.fit(numbers)], dim=1)

    @torch.no_grad()
    def read(self, rows: list[Row]) -> torch.Tensor:
        """[N, D]: the features of rows."""
        if self.version == WORDS_ONLY:
            return self.words.read(rows)
        words, places, numbers = self._sums(rows)
        scaled = [place.normalise(raw) for place, raw in zip(self._parts, places)]
        return torch.cat([(words - self.words.centre) / self.words.size, *scaled, self.curves.read(numbers)], dim=1)

    @property
    def size(self) -> int:
        """D."""
        return max(columns.stop for columns in self.groups.values())

    @torch.no_grad()
    def scores_after_tokens(self, rows: list[Row], weights: torch.Tensor) -> list[torch.Tensor]:
        """What `read(rows) @ weights.T` has come to after each token, [1 + T, M] for each row; first, before any.

        Of the words it is what they add one by one to the whole response's mean. The rest is what the response would
        score if it ended there, known after each word.
        """
        groups = self.groups
        word_share = weights[:, groups["words"]]
        if self.version == WORDS_ONLY:
            return [torch.cat([torch.zeros(1, adds.shape[1]), adds]).cumsum(0)
                    for adds in self.words.token_contributions(rows, weights)]
        scaled = word_share / self.words.size
        usual = scaled @ self.words.centre.expand(scaled.shape[1])
        totals, numbers = [torch.zeros(0, len(weights))] * len(rows), [torch.zeros(0, len(self.numbers))] * len(rows)
        for i, reading in self._readings(rows):
            total = torch.zeros(len(reading.numbers), len(weights))
            for each, share in zip(reading.words.similarities, scaled.chunk(DEPTHS, dim=1)):
                total += each @ share.T
            total = ((total - usual) / max(len(total), 1)).cumsum(0)
            for place in self._parts:
                total += place.trace(reading.words, weights[:, groups[place.place]])
            totals[i], numbers[i] = total, reading.numbers
        curves = (self.curves.read(torch.cat(numbers)) @ self._number_weights(weights).T).split(list(map(len, numbers)))
        start = self._start_scores(weights)
        results = []
        for (_, response), total, curve in zip(rows, totals, curves):
            # The score before a word's last token is that after the word before it.
            words_so_far = F.pad(self.words.splitter.ends(response).cumsum(0), (1, 0))
            results.append(torch.cat([start, total + curve])[words_so_far])
        return results

    def likes(self, weights: torch.Tensor) -> dict[str, tuple[str, str]]:
        """What weights [D] like and dislike in each group of features, in plain English; "" where there is nothing."""
        found = {}
        nearness = self.words.landmark_similarities()
        by_word = {"words": self.words.word_weights(weights[None, self.groups["words"]])[:, 0]}
        for place in self.places:
            by_word[place.place] = place.word_weights(weights[None, self.groups[place.place]], nearness)[:, 0]
        for name, values in by_word.items():
            liked, disliked = self.rank_words(values)
            found[name] = (phrase_with(name, liked), phrase_with(name, disliked))
        if self.version > SHAPES:
            names = [f"-{ending}" for ending in self.endings.endings]
            liked, disliked = self.rank_words(self.endings.weights_of_endings(weights[self.groups["endings"]]), names)
            found["endings"] = (phrase_with("endings", liked), phrase_with("endings", disliked))
        for number, name in enumerate(self.numbers):
            knots, curve = self.curves.curve(number, self._number_weights(weights[None])[0])
            if len(knots) > 1:
                found[name] = (phrase_at(PHRASES[name], knots, curve), phrase_at(PHRASES[name], knots, -curve))
        return found

    def rank_words(self, values: torch.Tensor, names: list[str] | None = None) -> tuple[list[str], list[str]]:
        """The landmarks' words (or other `names`) with positive and with negative values [L], the strongest first.

        Control tokens, such as the end of a response, are no words to a reader.
        """
        decode = self.backbone.tokenizer.decode
        names = names or [decode(word, skip_special_tokens=True).strip() for word in self.words.chosen]
        order = [i for i in values.argsort(descending=True, stable=True).tolist() if names[i]]
        liked = [names[i] for i in order if values[i] > 0]
        disliked = [names[i] for i in reversed(order) if values[i] < 0]
        # "dog" and " dog" are two words of the vocabulary, and one to a reader.
        return list(dict.fromkeys(liked)), list(dict.fromkeys(disliked))

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """All but the words, which have a state of their own."""
        return {"version": self.version, "places": [place.state_dict() for place in self._parts],
                "curves": self.curves.state_dict(), "likelihood": self.likelihood,
                "prompts": self.prompt_words.state_dict(), "embeddings": self.embeddings}

    def load_state_dict(self, state: dict) -> None:
        """Take a state of the same version."""
        for place, each in zip(self._parts, state["places"]):
            place.load_state_dict(each)
        self.curves.load_state_dict(state["curves"])
        self.likelihood, self.embeddings = state["likelihood"], tuple(state["embeddings"])
        self.prompt_words.load_state_dict(state["prompts"])
        self._prompts, self._directions = {}, {}

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start_scores(self, weights: torch.Tensor) -> torch.Tensor:
        """[1, M]: what no words at all would score."""
        total = self.curves.read(self._nothing()[None]) @ self._number_weights(weights).T
        for place in self._parts:
            share = weights[:, self.groups[place.place]] / place.size
            total = total - share @ place.centre.expand(share.shape[1])
        return total

    def _nothing(self) -> torch.Tensor:
        """[P]: the numbers of no words at all."""
        found = [*shape.Shape().numbers().values(), *Relation({}, []).values(), 0.0, self.likelihood]
        if self.version > SHAPES:
            found += pattern.Pattern().numbers().values()
        return torch.tensor(found)

    def _number_weights(self, weights: torch.Tensor) -> torch.Tensor:
        """[M, D]: the share of weights that belongs to the curves."""
        return weights[:, self.size - self.curves.slices[-1].stop:]

    def _spelled(self, tokens: list[int]) -> list[str]:
        """The words of a text."""
        return [kind.text for kind in map(self.texts.kind, self.words.splitter.words(tokens)) if kind.spells]

    @torch.no_grad()
    def _choose_landmarks(self, rows: list[Row]) -> None:
        """Learn from the anchors how likely their tokens are, and which words are common in which place."""
        logprobs, tokens, count = 0.0, 0, 0
        usual = [torch.zeros(len(self.words.chosen)) for _ in range(DEPTHS)]
        for part in self.words.similarities(rows, logprobs=True):
            logprobs += part.logprobs.sum().item()
            tokens += int(part.lengths.sum())
            count += len(part.owners)
            usual = [total + each.sum(0).cpu() for total, each in zip(usual, part.depths)]
        self.likelihood = logprobs / max(tokens, 1)
        index_of = {word: k for k, word in enumerate(self.words.chosen)}
        found, sentences = [], []
        for _, response in rows:
            here = self.words.splitter.words(response)
            found.append(torch.tensor([index_of.get(word, -1) for word in here], dtype=torch.long))
            sentences.append(self._sentences(list(self.texts.places(response))))
        for place in self.places:
            place.choose(sentences, found, [total / max(count, 1) for total in usual])
        self.endings.choose_endings([self._spelled(response) for _, response in rows])

    @torch.no_grad()
    def _sums(self, rows: list[Row]) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """What the features are made of: mean similarities [N, 2 L], the sums [N, D] of each place, numbers [N, P]."""
        words = torch.zeros(len(rows), DEPTHS * len(self.words.chosen))
        places = [torch.zeros(len(rows), place.width) for place in self._parts]
        numbers = torch.zeros(len(rows), len(self.numbers))
        for i, reading in self._readings(rows):
            words[i] = torch.cat([each.sum(0) / max(len(each), 1) for each in reading.words.similarities])
            numbers[i] = reading.numbers[-1] if len(reading.numbers) else self._nothing()
            for place, sums in zip(self._parts, places):
                sums[i] = place.read(reading.words)
        return words, places, numbers

    def _readings(self, rows: list[Row]) -> Iterator[tuple[int, Reading]]:
        """(index, reading) of each row, in the order in which the base reads them."""
        for part in self.words.similarities(rows, logprobs=True):
            counts = part.owners.bincount(minlength=len(part.rows)).tolist()
            depths = [each.cpu().split(counts) for each in part.depths]
            logprobs, lengths = part.logprobs.cpu().split(counts), part.lengths.cpu().split(counts)
            for number, i in enumerate(part.rows):
                yield i, self._read_one(rows[i], [each[number] for each in depths], logprobs[number], lengths[number])

    def _sentences(self, places: list[Place]) -> torch.Tensor:
        """[W]: the number of the sentence of each word."""
        return torch.tensor([place.sentence for place in places], dtype=torch.long)

    def _read_one(self, row: Row, similarities: list[torch.Tensor], logprobs: torch.Tensor,
                  lengths: torch.Tensor) -> Reading:
        prompt, response = row
        places = list(self.texts.places(response))
        texts, own, _ = self._own_words(prompt)
        numbers = [a + b for a, b in zip(trace(shape.Shape(), places), trace(Relation(own, texts), places))]
        counted = lengths.cumsum(0) + SHRUNK
        likelihood = (logprobs.cumsum(0) + SHRUNK * self.likelihood) / counted
        rest = torch.stack([self._nearness(prompt, response), likelihood], dim=1)
        values = [torch.tensor(numbers).view(len(places), len(shape.NAMES) + len(Relation.NAMES)), rest]
        if self.version > SHAPES:
            values.append(torch.tensor(trace(pattern.Pattern(), places)).view(len(places), len(pattern.NAMES)))
        spelled = [place.kind.text if place.kind.spells else "" for place in places]
        return Reading(torch.cat(values, dim=1), Words(similarities, self._sentences(places), spelled))

    def _own_words(self, prompt: list[int]) -> tuple[list[str], dict[str, float], dict[str, Word]]:
        """(all words of a prompt, its own words with their weights, the tokens that spell these)."""
        key = tuple(prompt)
        if key not in self._prompts:
            texts, own, spelled = [], {}, {}
            for word in self.words.splitter.words(prompt):
                kind = self.texts.kind(word)
                if not kind.spells:
                    continue
                texts.append(kind.text)
                weight = self.prompt_words.weight(kind.text)
                if weight >= prompt_relation.LEAST:
                    own[kind.text], spelled[kind.text] = weight, word
            self._prompts[key] = texts, own, spelled
        return self._prompts[key]

    def _nearness(self, prompt: list[int], response: list[int]) -> torch.Tensor:
        """[W]: how near the response has come to the prompt's own words, by their embeddings."""
        _, own, spelled = self._own_words(prompt)
        words = self.words.splitter.words(response)
        if not own or not words:
            return torch.zeros(len(words))
        marks = torch.stack([self._direction(word) for word in spelled.values()])
        weights = torch.tensor(list(own.values()))
        return prompt_relation.closest(torch.stack([self._direction(word) for word in words]), marks, weights, WIDTH)

    def _direction(self, word: Word) -> torch.Tensor:
        """[d]: the direction of a word's embedding from the usual one."""
        if word not in self._directions:
            mean, spread = self.embeddings
            self._directions[word] = F.normalize((self._embedding(word) - mean) / spread, dim=0)
        return self._directions[word]

    def _embedding(self, word: Word) -> torch.Tensor:
        """[d]: the mean embedding of a word's tokens."""
        ids = torch.tensor(word, device=self.backbone.device)
        return self.backbone.base.get_input_embeddings()(ids).float().mean(0).cpu()
