"""How varied sampled responses are: distinct n-grams (Li et al. 2016). No function here needs a model."""


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
