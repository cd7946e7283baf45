"""The capacity of engines that reserve all of their memory when they start, as llama.cpp and vLLM do."""

from collections.abc import Sequence

from baichuan_core.generation.engines.contract import Capacity, EncodedRequest
from baichuan_core.generation.options import GenerationOptions

# Slot lengths are rounded up to a multiple of this many tokens, so that slightly longer requests need no restart.
SLOT_TOKENS_ALIGNMENT = 256


def compute_capacity(requests: Sequence[EncodedRequest], settings: GenerationOptions) -> Capacity:
    """Return the capacity for these requests: at most one slot per request, each long enough for the longest one."""
    return _limit_capacity(len(requests), max(one.max_tokens for one in requests), settings)


def compute_serving_capacity(window: int, settings: GenerationOptions) -> Capacity:
    """Return the capacity for requests that are not known yet: as many slots of `window` tokens as the settings allow.

    Example:
        With batch_tokens=16384, batch_size=32 and a window of 4000 tokens there are 4 slots of 4096 tokens;
        with batch_tokens=1000 there is one slot of 4096 tokens, because a request must always fit.
    """
    return _limit_capacity(settings.batch_size, window, settings)


def is_capacity_sufficient(capacity: Capacity, needed: Capacity) -> bool:
    """Return whether `capacity` has at least as many slots as `needed`, and slots that are at least as long."""
    return capacity.slots >= needed.slots and capacity.slot_tokens >= needed.slot_tokens


def grow_capacity(capacity: Capacity, needed: Capacity, settings: GenerationOptions) -> Capacity:
    """Return the capacity after a restart: enough for both capacities if the settings allow it, otherwise `needed`."""
    both = _limit_capacity(
        max(capacity.slots, needed.slots), max(capacity.slot_tokens, needed.slot_tokens) - 1, settings
    )
    return both if is_capacity_sufficient(both, needed) else needed


def _limit_capacity(slots: int, tokens: int, settings: GenerationOptions) -> Capacity:
    # One extra token, because llama.cpp stops a completion before its slot is full.
    slot_tokens = -(-(tokens + 1) // SLOT_TOKENS_ALIGNMENT) * SLOT_TOKENS_ALIGNMENT
    return Capacity(max(1, min(settings.batch_size, slots, settings.batch_tokens // slot_tokens)), slot_tokens)
