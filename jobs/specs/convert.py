"""Convert a checkpoint to another form with equal logits."""

from typing import Literal

from jobs.specs.fields import ModelProducingSpec


class ConvertSpec(ModelProducingSpec):
    """`baichuan1`: the head's rows normalised, for engines without NormHead.

    `safetensors`: any published file form to sharded safetensors.
    """

    kind: Literal["convert"]
    target: Literal["baichuan1", "safetensors"]
