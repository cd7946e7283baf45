"""How much room an engine gets that reserves all of its memory when it starts, as llama.cpp and vLLM do."""

from collections.abc import Sequence

from baichuan_core.generation.engines.contract import Capacity, EncodedRequest
from baichuan_core.generation.options import GenerationOptions

SLOT_TOKENS_STEP = 256  # the tokens of a slot are a multiple of it, so that an engine can be kept for the next requests


def capacity_for(requests: Sequence[EncodedRequest], settings: GenerationOptions) -> Capacity:
    """Return the room for these requests, with as many at the same time as the settings allow."""
    return _limited(len(requests), max(one.tokens for one in requests), settings)


def capacity_for_serving(window: int, settings: GenerationOptions) -> Capacity:
    """Return the room for requests that are not known yet: all that the settings allow, for a window of so many tokens.

    Example:
        With batch_tokens=16384, batch_size=32 and a window of 4000 tokens there are 4 slots of 4096 tokens;
        with batch_tokens=1000 there is one slot, which is large enough for the window.
    """
    return _limited(settings.batch_size, window, settings)


def is_enough(capacity: Capacity, needed: Capacity) -> bool:
    """Return whether an engine of this capacity has the room of another one."""
    return capacity.slots >= needed.slots and capacity.slot_tokens >= needed.slot_tokens


def grow(capacity: Capacity, needed: Capacity, settings: GenerationOptions) -> Capacity:
    """Return the capacity to restart with: enough for both if the settings allow that, else for what is needed now."""
    both = _limited(max(capacity.slots, needed.slots), max(capacity.slot_tokens, needed.slot_tokens) - 1, settings)
    return both if is_enough(both, needed) else needed


def _limited(slots: int, tokens: int, settings: GenerationOptions) -> Capacity:
    # One token more, because llama.cpp stops a completion before its slot is full.
    slot_tokens = -(-(tokens + 1) // SLOT_TOKENS_STEP) * SLOT_TOKENS_STEP
    return Capacity(max(1, min(settings.batch_size, slots, settings.batch_tokens // slot_tokens)), slot_tokens)
