"""The grouping of prompts into forward passes."""

from collections.abc import Sequence

MAX_PREFILL_TOKENS = 2048  # maximum number of tokens in one forward pass over prompts
# Fixed cost of a forward pass, in tokens: reading all weights takes as long as processing this many tokens. A
# larger batch is therefore faster than one more pass as long as it adds less padding than this.
PASS_OVERHEAD_TOKENS = {"cpu": 32, "cuda": 256}


def group_into_passes(lengths: Sequence[int], *, pass_overhead: int) -> list[list[int]]:
    """Split prompts into groups, one forward pass each, so that the total cost is minimal.

    The rows of a group are padded to the longest one, so a pass costs `rows * longest + pass_overhead` tokens. With
    prompts sorted by length, each group is a run of adjacent prompts, and dynamic programming finds the cheapest split.

    Example:
        Lengths 100, 10, 98 and 11 with a fixed cost of 32 per pass:
        a single pass costs 4 * 100 + 32 = 432;
        groups {100, 98} and {11, 10} cost (2 * 100 + 32) + (2 * 11 + 32) = 286, which is the minimum.

    Args:
        lengths: Number of tokens of each prompt.
        pass_overhead: Fixed cost of a pass, in tokens.

    Returns:
        Indices of the prompts in each group, the longest prompts first. A group of several prompts has at most
        `MAX_PREFILL_TOKENS` tokens, including padding.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    # cheapest[n] is the minimal cost of the first n prompts in `order`; starts[n - 1] is the start of the last group.
    cheapest, starts = [0], list[int]()
    for end in range(1, len(order) + 1):
        choices: list[tuple[int, int]] = []
        for start in range(end - 1, -1, -1):
            tokens = (end - start) * lengths[order[start]]
            if choices and tokens > MAX_PREFILL_TOKENS:
                break
            choices.append((cheapest[start] + tokens + pass_overhead, start))
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
