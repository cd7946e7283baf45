"""Noise that belongs to the request: a seed of its own, and from it one number a token.

The numbers are those of SplitMix64 (Steele, Lea and Flood 2014), which reaches any place of its sequence at once. So
they are the same on every device and in every batch, and a request that is interrupted needs no state to go on.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
FIRST_MIX = np.uint64(0xBF58476D1CE4E5B9)
SECOND_MIX = np.uint64(0x94D049BB133111EB)


def request_seed(seed: int, prompt_ids: Sequence[int], occurrence: int, sample: int) -> int:
    """A 63-bit seed from the run's seed, the prompt, how many equal prompts came before, and which sample it is."""
    digest = hashlib.sha256(f"{seed}:{occurrence}:{sample}:{','.join(map(str, prompt_ids))}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def uniform_numbers(seeds: Sequence[int], steps: Sequence[int]) -> NDArray[np.float64]:
    """For each pair the number of that step (from 0) in the sequence of that seed, in [0, 1) with 53 bits."""
    with np.errstate(over="ignore"):
        z = np.asarray(seeds, dtype=np.uint64) + (np.asarray(steps, dtype=np.uint64) + np.uint64(1)) * GOLDEN_GAMMA
        z = (z ^ (z >> np.uint64(30))) * FIRST_MIX
        z = (z ^ (z >> np.uint64(27))) * SECOND_MIX
        z ^= z >> np.uint64(31)
    numbers: NDArray[np.float64] = np.multiply(z >> np.uint64(11), 2.0**-53, dtype=np.float64)
    return numbers
