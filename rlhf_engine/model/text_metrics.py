"""How varied sampled responses are."""



def distinct(responses: list[list[int]], n: int = 2, tokens: int | None = None) -> float:
    """Distinct n-grams over all n-grams of the first `tokens` tokens; n-grams do not cross responses."""
    seen, count, left = set(), 0, tokens if tokens is not None else sum(map(len, responses))
    for ids in responses:
        ids = ids[:left]
        left -= len(ids)
        for i in range(len(ids) - n + 1):
            seen.add(tuple(ids[i:i + n]))
            count += 1
    return len(seen) / count if count else 0.0


def distinct_ratio(ours: list[list[int]], theirs: list[list[int]]) -> float:
    """distinct-2 of ours over theirs, both over as many tokens as the shorter has: distinct-n falls with length."""
    tokens = min(sum(map(len, ours)), sum(map(len, theirs)))
    base = distinct(theirs, tokens=tokens)
    return distinct(ours, tokens=tokens) / base if base else 0.0
