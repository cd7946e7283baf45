"""Which prompts go through the model together."""

from collections.abc import Sequence

PREFILL_TOKENS = 2048  # most tokens of one pass over prompts
# To read all weights takes as long as to compute so many tokens: less padding than that is worth a pass spared.
TOKENS_OF_A_PASS = {"cpu": 32, "cuda": 256}


def groups_for_passes(lengths: Sequence[int], *, a_pass: int) -> list[list[int]]:
    """Groups for one pass each, so that the passes and what they pad cost least in all.

    Args:
        lengths: Tokens of each row; rows of a group are padded to its longest.
        a_pass: Tokens that a pass costs beside those that it computes.

    Returns:
        Indices, the longest first. A group of several has `PREFILL_TOKENS` tokens at most.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # Of the first so many rows in this order: what they cost, and where their last group starts.
    cheapest, starts = [0], list[int]()
    for end in range(1, len(order) + 1):
        choices: list[tuple[int, int]] = []
        for start in range(end - 1, -1, -1):
            tokens = (end - start) * lengths[order[start]]
            if choices and tokens > PREFILL_TOKENS:
                break
            choices.append((cheapest[start] + tokens + a_pass, start))
        cost, start = min(choices)
        cheapest.append(cost)
        starts.append(start)
    groups: list[list[int]] = []
    end = len(order)
    while end:
        start = starts[end - 1]
        groups.append(order[start:end])
        end = start
    return groups[::-1]
