"""Infers the family of a configuration: its position embedding and its output head.

Published configurations state neither, so both are inferred from other fields. If those are missing or contradict each
other, the configuration is rejected until it states the family, because a wrong guess makes the model output nonsense.
"""

from collections.abc import Mapping
from typing import Any, Literal

from .errors import FileError

PositionEmbedding = Literal["rope", "alibi"]

BAICHUAN1_VOCABULARY_SIZE = 64_000
BAICHUAN2_VOCABULARY_SIZE = 125_696
# Widths of the published models: every 7B model uses RoPE, and every 13B model ALiBi.
PUBLISHED_WIDTHS: Mapping[int, PositionEmbedding] = {4096: "rope", 5120: "alibi"}
# Class names of Baichuan 1 7B begin with "BaiChuan"; all others begin with "Baichuan".
BAICHUAN1_7B_PREFIX = "BaiChuan"
BAICHUAN_PREFIX = "Baichuan"


def infer_position_embedding(config: Mapping[str, Any]) -> PositionEmbedding:
    """Return the kind of position embedding, "rope" or "alibi".

    Raises:
        FileError: The width and length fields contradict each other.
    """
    if (stated := config.get("position_embedding")) is not None:
        return stated  # type: ignore[no-any-return] # checked with the other fields
    published = PUBLISHED_WIDTHS.get(config.get("hidden_size", 0))
    rope_length, length = config.get("max_position_embeddings"), config.get("model_max_length")
    if rope_length is not None and length is not None:  # tools add max_position_embeddings to derivatives of 13B models
        return published or "rope"
    if rope_length is None and length is None:
        return published or "rope"
    by_length: PositionEmbedding = "rope" if rope_length is not None else "alibi"
    if published not in (None, by_length):
        present = "max_position_embeddings" if by_length == "rope" else "model_max_length"
        raise FileError(
            f"position_embedding is not set: hidden_size {config['hidden_size']} indicates {published}, but "
            f'{present} indicates {by_length}; set position_embedding to "rope" or "alibi"'
        )
    return by_length


def infer_norm_head(config: Mapping[str, Any]) -> bool | None:
    """Return whether the output head is the normalized head of Baichuan 2; None if no field indicates it."""
    if (stated := config.get("norm_head")) is not None:
        return stated  # type: ignore[no-any-return] # checked with the other fields
    vocabulary, names = config.get("vocab_size"), class_names(config)
    if vocabulary in (BAICHUAN1_VOCABULARY_SIZE, BAICHUAN2_VOCABULARY_SIZE):
        return bool(vocabulary == BAICHUAN2_VOCABULARY_SIZE)
    if any(name.startswith(BAICHUAN1_7B_PREFIX) for name in names):
        return False
    if config.get("z_loss_weight") is not None:  # only Baichuan 2 has this field
        return True
    if any(name.startswith(BAICHUAN_PREFIX) for name in names) and infer_position_embedding(config) == "rope":
        return True  # a 7B model whose class is not that of Baichuan 1
    return None


def require_norm_head(config: Mapping[str, Any]) -> bool:
    """Return whether the output head is normalized.

    Raises:
        FileError: No field indicates it.
    """
    norm_head = infer_norm_head(config)
    if norm_head is None:
        raise FileError(unknown_head_message(config.get("vocab_size")))
    return norm_head


def unknown_head_message(vocabulary: object) -> str:
    """Return the message for a configuration that does not indicate the kind of its output head."""
    return (
        f"norm_head is not set, and vocab_size {vocabulary} is not that of a published model: set norm_head to true if "
        "the model derives from Baichuan 2, or to false if it derives from Baichuan 1"
    )


def class_names(config: Mapping[str, Any]) -> list[str]:
    """Return the names of the model's classes, without the module prefix that `auto_map` adds."""
    auto_map, architectures = config.get("auto_map"), config.get("architectures")
    mapped = list(auto_map.values()) if isinstance(auto_map, Mapping) else []
    named = [*mapped, *(architectures if isinstance(architectures, list) else [architectures])]
    return [name.rpartition(".")[2] for name in named if isinstance(name, str)]
