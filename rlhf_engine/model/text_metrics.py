"""How varied responses are: distinct n-grams (Li et al. 2016), repetition, duplicates, shared openings.

No function here needs a model.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

SIZES = (1, 2, 3)
"""n of the distinct n-grams."""
REPEATED = 4
"""n of the n-grams that are counted again inside of a response."""
OPENING = 3
"""Words of a response that count as its opening."""
LOST = 0.8
"""Ratio of two distinct-2 below which variety was lost."""
OFTEN = 0.1
"""Share that is worth a sentence, if it has doubled."""
OPENING_OFTEN = 0.3
"""Share of responses with the same opening that is worth a sentence, if it has risen by half."""


def distinct(responses: list[list[int]], n: int = 2, tokens: int | None = None) -> float:
    """Number of different n-grams divided by the number of all n-grams, in [0, 1]; 0 if there are none.

    Args:
        responses: token ids of each response. An n-gram never reaches from one response into the next.
        n: length of an n-gram in tokens.
        tokens: read only this many tokens, from the first response on; None reads all.
    """
    seen: set[tuple[int, ...]] = set()
    count = 0
    left = sum(map(len, responses)) if tokens is None else tokens
    for ids in responses:
        ids = ids[:left]
        left -= len(ids)
        for i in range(len(ids) - n + 1):
            seen.add(tuple(ids[i:i + n]))
            count += 1
    return len(seen) / count if count else 0.0


def distinct_ratio(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """distinct-2 of `ours` divided by that of `theirs`; 0 where theirs is 0.

    Both are measured over as many tokens as the shorter one has, because distinct-n falls with the amount of text.
    """
    tokens = min(sum(map(len, ours)), sum(map(len, theirs)))
    base = distinct(theirs, tokens=tokens)
    return distinct(ours, tokens=tokens) / base if base else 0.0


def measure_variety(response_ids: Sequence[list[int]], texts: Sequence[str],
                    tokens: int | None = None) -> dict[str, Any]:
    """The variety of a set of responses.

    Args:
        response_ids: token ids of each response.
        texts: what they read.
        tokens: distinct n-grams are counted in this many tokens, from the first response on; None is all.

    Returns:
        `distinct_1`, `distinct_2`, `distinct_3`: different n-grams as a share of all (Li et al. 2016).
        `repeated`: mean over responses of the share of 4-grams that stood in the same response before (Welleck et al.
        2020, seq-rep-4); responses of less than four tokens have none.
        `duplicates`: share of the responses that are the same as an earlier one, white space and case aside.
        `opening`, `opening_share`: the three words with which most responses begin, and the share that begins with
        them; empty responses have no opening.
    """
    ids = list(response_ids)
    report: dict[str, Any] = {f"distinct_{n}": distinct(ids, n, tokens) for n in SIZES}
    repeated = [repeated_share(row) for row in ids if len(row) >= REPEATED]
    report["repeated"] = sum(repeated) / len(repeated) if repeated else 0.0
    plain = [" ".join(text.lower().split()) for text in texts]
    report["duplicates"] = 1 - len(set(plain)) / len(plain) if plain else 0.0
    openings = Counter(" ".join(text.split()[:OPENING]) for text in plain if text)
    opening, count = openings.most_common(1)[0] if openings else ("", 0)
    return report | {"opening": opening, "opening_share": count / len(plain) if plain else 0.0}


def repeated_share(ids: Sequence[int], n: int = REPEATED) -> float:
    """Share of the n-grams of a response that stood in it before; 0 if it has none."""
    count = len(ids) - n + 1
    return 1 - len({tuple(ids[i:i + n]) for i in range(count)}) / count if count > 0 else 0.0


def compare_variety(ours: tuple[Sequence[list[int]], Sequence[str]],
                    theirs: tuple[Sequence[list[int]], Sequence[str]]) -> dict[str, dict[str, Any]]:
    """`measure_variety` of two sets of responses (token ids, texts), as `ours` and `against`.

    Distinct n-grams are counted in as many tokens as the shorter set has, because their share falls with the amount of
    text.
    """
    tokens = min(sum(map(len, ids)) for ids, _ in (ours, theirs))
    return {"ours": measure_variety(*ours, tokens), "against": measure_variety(*theirs, tokens)}


def variety_remarks(variety: dict[str, dict[str, Any]]) -> list[str]:
    """What `compare_variety` gives, as sentences: one for each loss of variety that is worth a word."""
    ours, theirs = variety["ours"], variety["against"]
    remarks = []
    if ours["distinct_2"] < LOST * theirs["distinct_2"]:
        remarks.append(f"variety was lost: distinct-2 is {ours['distinct_2']:.2f} against {theirs['distinct_2']:.2f} "
                       "over equally many tokens")
    for key, what in (("repeated", "of the 4-grams repeat what stands in the same response before"),
                      ("duplicates", "of the responses are the same as an earlier one")):
        if ours[key] >= OFTEN and ours[key] >= 2 * theirs[key]:
            remarks.append(f"{ours[key]:.0%} {what}, against {theirs[key]:.0%}")
    if ours["opening_share"] >= OPENING_OFTEN and ours["opening_share"] >= 1.5 * theirs["opening_share"]:
        remarks.append(f"{ours['opening_share']:.0%} of the responses begin with the words {ours['opening']!r}; the "
                       f"most common opening of the other side has {theirs['opening_share']:.0%}")
    return remarks
