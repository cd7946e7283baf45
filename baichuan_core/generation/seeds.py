"""Random numbers for sampling: every completion has its own seed, from which one number per token is derived.

The numbers are those of SplitMix64 (Steele, Lea and Flood 2014), which computes any element of its sequence directly.
They are therefore the same on every device and in every batch, and an interrupted request can be resumed without any
saved state.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
FIRST_MIX_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
SECOND_MIX_MULTIPLIER = np.uint64(0x94D049BB133111EB)


def derive_completion_seed(seed: int, prompt_ids: Sequence[int], occurrence: int, sample: int) -> int:
    """Derive the 63-bit seed of a completion.

    Args:
        seed: The run's or the request's seed.
        prompt_ids: Token ids of the prompt.
        occurrence: Number of identical prompts earlier in the run.
        sample: Index of the completion within its request.
    """
    digest = hashlib.sha256(f"{seed}:{occurrence}:{sample}:{','.join(map(str, prompt_ids))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def compute_uniform_numbers(seeds: Sequence[int], steps: Sequence[int]) -> NDArray[np.float64]:
    """Return element `step` (from 0) of each seed's sequence, as a number in [0, 1) with 53-bit precision."""
    with np.errstate(over="ignore"):
        z = np.asarray(seeds, dtype=np.uint64) + (np.asarray(steps, dtype=np.uint64) + np.uint64(1)) * GOLDEN_GAMMA
        z = (z ^ (z >> np.uint64(30))) * FIRST_MIX_MULTIPLIER
        z = (z ^ (z >> np.uint64(27))) * SECOND_MIX_MULTIPLIER
        z ^= z >> np.uint64(31)
    numbers: NDArray[np.float64] = np.multiply(z >> np.uint64(11), 2.0**-53, dtype=np.float64)
    return numbers
