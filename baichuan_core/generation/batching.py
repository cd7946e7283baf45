"""Which requests run together."""

from collections.abc import Sequence

from baichuan_core.generation.engines.contract import EncodedRequest


def batches(requests: Sequence[EncodedRequest], *, batch_tokens: int, batch_size: int) -> list[list[EncodedRequest]]:
    """Requests of like length together, the longest first, so that a lack of memory shows at once.

    A batch has at most ``batch_size`` rows, and rows times the longest prompt and completion stay within
    ``batch_tokens``; a request that is longer than that runs alone.
    """
    groups: list[list[EncodedRequest]] = []
    for request in sorted(requests, key=lambda one: (-len(one.prompt_ids), -one.limit, one.index)):
        group = groups[-1] if groups else []
        row = len((group or [request])[0].prompt_ids) + max(one.limit for one in [*group, request])
        if group and len(group) < batch_size and row * (len(group) + 1) <= batch_tokens:
            group.append(request)
        else:
            groups.append([request])
    return groups
