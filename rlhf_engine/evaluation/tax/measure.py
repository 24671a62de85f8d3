"""Measure the tax: perplexity on texts and accuracy on minimal pairs of checkpoints, each beside its start."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from rlhf_engine.data.examples import Demonstration
from rlhf_engine.errors import UserError, noop
from rlhf_engine.evaluation.intervals import ratio_interval, share_interval, too_few
from rlhf_engine.evaluation.tax.checkpoints import Checkpoint
from rlhf_engine.evaluation.tax.logprobs import Window, encode_text, score_rows
from rlhf_engine.evaluation.tax.minimal_pairs import MinimalPair
from rlhf_engine.model.backbone import Backbone

WINDOW = 1024
"""Tokens of a window, at most; fewer where the model knows fewer."""
MARGIN = 0.01
"""A change that does not count: of the perplexity by this share, of the accuracy by this much (a percentage point)."""
TIE = 1e-4
"""Nats by which the sums of two sentences differ where rounding explains it: then none of the two is likelier."""
MANY_PARADIGMS = 20
"""From so many paradigms on, they are the clusters of an interval; of fewer, each pair stands for itself."""
MOST_NATS = 700.0
"""Bound on nats whose exponential is shown, so that it stays finite."""
TAXED, NOT_TAXED, UNCLEAR = "taxed", "not taxed", "unclear"

Logprobs = dict[str, list[float]]
"""For each checkpoint, by its name: the log-probability of each text or sentence, in nats."""


def measure_tax(backbone: Backbone, checkpoints: Sequence[Checkpoint], texts: Sequence[Demonstration],
                pairs: Sequence[MinimalPair], *, window: int = WINDOW, on_microbatch: Callable[[], None] = noop,
                say: Callable[[str], None] = lambda line: None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure checkpoints of one base on the same texts and pairs.

    Args:
        backbone: has their roles.
        checkpoints: what `load_checkpoints` gives; the start of each is among them.
        texts: documents. None of them, or no pairs, leaves that part out.
        pairs: minimal pairs.
        window: tokens that are read at a time, at most (`cut_windows`).
        on_microbatch: called between forward passes.
        say: called with a line of progress before each checkpoint is read.

    Returns:
        (report, rows), a dictionary and a list for samples.jsonl. The report has a row for each checkpoint, described
        in `text_part` and `pairs_part`, and `taxed`: whether a measure is worse than at the start by more than
        `MARGIN`, as its whole 95 % interval says.

    Raises UserError where the texts have no tokens, and NotFinite where a checkpoint gives no finite number.
    """
    size = min(window, backbone.longest)

    def read(rows: Sequence[Window], what: str) -> Logprobs:
        result = {}
        for each in checkpoints:
            say(f"reading {len(rows):,} {what} under {each.name}")
            result[each.name] = score_rows(backbone, each.role, rows, size, each.name, on_microbatch)
        return result

    report: dict[str, Any] = {"window": size, "margin": MARGIN}
    measured: dict[str, dict[str, dict]] = {checkpoint.name: {} for checkpoint in checkpoints}
    rows: list[dict[str, Any]] = []
    if texts:
        encoded = [encode_text(backbone, text) for text in texts]
        logprobs = read(encoded, "texts")
        report["text_data"], parts = text_part(checkpoints, texts, encoded, size, logprobs)
        for name, part in parts.items():
            measured[name]["text"] = part
        rows += [{"kind": "text", "row": number, "tokens": len(charged), "characters": len(text.completion),
                  "logprob": {name: values[number - 1] for name, values in logprobs.items()}}
                 for number, (text, (_, charged)) in enumerate(zip(texts, encoded), 1)]
    if pairs:
        sentences = [Demonstration("", sentence) for pair in pairs for sentence in (pair.good, pair.bad)]
        encoded = [encode_text(backbone, sentence) for sentence in sentences]
        logprobs = read(encoded, "sentences")
        report["pair_data"], parts = pairs_part(checkpoints, pairs, logprobs)
        for name, part in parts.items():
            measured[name]["pairs"] = part
        rows += [{"kind": "pair", "paradigm": pair.paradigm, "good": pair.good, "bad": pair.bad,
                  "logprob": {name: values[2 * i:2 * i + 2] for name, values in logprobs.items()}}
                 for i, pair in enumerate(pairs)]
    report["checkpoints"] = [_row(checkpoint, measured[checkpoint.name]) for checkpoint in checkpoints]
    return report, rows


def _row(checkpoint: Checkpoint, parts: dict[str, dict]) -> dict[str, Any]:
    """The row of a checkpoint. The verdict is the worst of its parts; without a start there is none."""
    start = checkpoint.start.name if checkpoint.start else None
    row: dict[str, Any] = {"name": checkpoint.name, "also": checkpoint.also, "start": start, **parts}
    if start is not None and parts:
        verdicts = [part["verdict"] for part in parts.values()]
        row["verdict"] = next((each for each in (TAXED, UNCLEAR) if each in verdicts), NOT_TAXED)
        row["taxed"] = TAXED in verdicts
    return row


# -- texts -------------------------------------------------------------------------------------------------------------

def text_part(checkpoints: Sequence[Checkpoint], texts: Sequence[Demonstration], encoded: Sequence[Window], size: int,
              logprobs: Logprobs) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(what the texts are, the part of each checkpoint's row about them).

    `nats_per_token` is the surprise over all texts, each weighted by its tokens; `perplexity` is its exponential.
    `nats_per_character` lets models with other tokenizers be compared. `ratio` is the perplexity over that of the
    start, with Fieller's interval over documents: what makes a document hard for both falls out.
    """
    tokens = [len(charged) for _, charged in encoded]
    characters = sum(len(text.completion) for text in texts)
    if not sum(tokens):
        raise UserError("the texts have no tokens for this model; choose other texts with --text")
    about = {"documents": len(texts), "tokens": sum(tokens), "characters": characters,
             "longer_than_window": sum(len(given) + len(charged) > size for given, charged in encoded),
             "note": too_few(len(texts), unit="text")}
    parts = {}
    for checkpoint in checkpoints:
        ours = logprobs[checkpoint.name]
        per_token = -sum(ours) / sum(tokens)
        part: dict[str, Any] = {
            "nats_per_token": per_token, "nats_per_character": -sum(ours) / characters,
            "perplexity": math.exp(min(per_token, MOST_NATS))}
        if checkpoint.start:
            theirs = logprobs[checkpoint.start.name]
            lost = [before - after for before, after in zip(theirs, ours)]
            low, high = ratio_interval(lost, tokens)
            part |= {"ratio": _exp(sum(lost) / sum(tokens)), "ratio_low": _exp(low), "ratio_high": _exp(high)}
            part["verdict"] = verdict_on(part["ratio_low"] - 1, part["ratio_high"] - 1)
        parts[checkpoint.name] = part
    return about, parts


def _exp(nats: float) -> float:
    return math.inf if nats == math.inf else math.exp(min(nats, MOST_NATS))


def verdict_on(low: float, high: float) -> str:
    """What an interval says about a loss: that it is beyond the margin, that it is not, or neither."""
    if low > MARGIN:
        return TAXED
    return NOT_TAXED if high <= MARGIN else UNCLEAR


# -- minimal pairs -----------------------------------------------------------------------------------------------------

def pairs_part(checkpoints: Sequence[Checkpoint], pairs: Sequence[MinimalPair],
               logprobs: Logprobs) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """(what the pairs are, the part of each checkpoint's row about them).

    A pair counts 1 where the good sentence has the higher log-probability, summed over all its tokens, 0 where the bad
    one has it, and one half where they are equal. `difference` is the accuracy less that of the start. Intervals are
    over paradigms where there are at least `MANY_PARADIGMS`, because the pairs of one are alike, else over pairs:
    `clusters` says which. `paradigms` has the same for each paradigm, over its pairs.

    Args:
        checkpoints: those that are measured.
        pairs: P minimal pairs.
        logprobs: [2 P] for each checkpoint: the good sentence and the bad one of each pair.
    """
    paradigms: dict[str, list[int]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        paradigms[pair.paradigm].append(number)
    each_alone = [[number] for number in range(len(pairs))]
    many = len(paradigms) >= MANY_PARADIGMS
    clusters = list(paradigms.values()) if many else each_alone
    unit = "paradigm" if many else "pair"
    about = {"pairs": len(pairs), "paradigms": len(paradigms), "clusters": unit,
             "note": too_few(len(clusters), unit=unit)}
    hits = {name: [hit(good, bad) for good, bad in zip(values[::2], values[1::2])]
            for name, values in logprobs.items()}
    parts = {}
    for checkpoint in checkpoints:
        ours = hits[checkpoint.name]
        theirs = hits[checkpoint.start.name] if checkpoint.start else None
        part = accuracy(ours, theirs, clusters)
        if theirs is not None:
            part["verdict"] = verdict_on(-part["difference_high"], -part["difference_low"])
        part["paradigms"] = {name: accuracy(ours, theirs, [[number] for number in numbers])
                             for name, numbers in paradigms.items()}
        parts[checkpoint.name] = part
    return about, parts


def hit(good: float, bad: float) -> float:
    """What a pair counts, from the log-probabilities of its sentences."""
    if abs(good - bad) <= TIE:
        return 0.5
    return 1.0 if good > bad else 0.0


def accuracy(ours: Sequence[float], theirs: Sequence[float] | None,
             clusters: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The accuracy over the pairs in `clusters`, and its difference to another one, with 95 % intervals over clusters.

    Args:
        ours: what each pair counts (0, one half or 1).
        theirs: the same at the start, or None.
        clusters: numbers of pairs, cluster by cluster.
    """
    sizes = [len(cluster) for cluster in clusters]
    count = sum(sizes)
    sums = [sum(ours[i] for i in cluster) for cluster in clusters]
    low, high = share_interval(sums, sizes)
    result: dict[str, Any] = {"pairs": count, "accuracy": sum(sums) / count, "accuracy_low": low, "accuracy_high": high}
    if theirs is not None:
        # A difference lies between -1 and 1; half of it, and one half more, is a share.
        shares = [sum((ours[i] - theirs[i] + 1) / 2 for i in cluster) for cluster in clusters]
        low, high = share_interval(shares, sizes)
        result |= {"difference": 2 * sum(shares) / count - 1, "difference_low": 2 * low - 1,
                   "difference_high": 2 * high - 1}
    return result
