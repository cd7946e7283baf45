"""How much room an engine gets that takes all of it when it starts, as llama.cpp and vLLM do."""

from collections.abc import Sequence
from dataclasses import dataclass

from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.options import GenerationOptions

TOKENS_AT_ONCE = 256  # a slot's room is a multiple of it, so that the engine of one run serves for the next


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room of an engine.

    Attributes:
        slots: Completions that run side by side.
        slot_tokens: Tokens of a prompt and its completion together.
    """

    slots: int
    slot_tokens: int

    @classmethod
    def of(cls, requests: Sequence[EncodedRequest], settings: GenerationOptions) -> "Capacity":
        """What these requests need, as many side by side as the settings allow."""
        longest = max(len(request.prompt_ids) + request.limit for request in requests)
        tokens = -(-(longest + 1) // TOKENS_AT_ONCE) * TOKENS_AT_ONCE
        slots = min(settings.batch_size, len(requests), settings.batch_tokens // tokens)
        return cls(max(slots, 1), tokens)

    def holds(self, other: "Capacity") -> bool:
        """Whether an engine of this capacity serves for the other as well."""
        return self.slots >= other.slots and self.slot_tokens >= other.slot_tokens
