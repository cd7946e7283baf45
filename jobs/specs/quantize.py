"""Quantize a checkpoint with bitsandbytes."""

from typing import Literal

from pydantic import Field

from jobs.specs.fields import ModelProducingSpec


class QuantizeSpec(ModelProducingSpec):
    """Write an int8 (LLM.int8()), NF4 or FP4 checkpoint that loads without any flag."""

    kind: Literal["quantize"]
    method: Literal["int8", "nf4", "fp4"] = "nf4"
    double_quantization: bool = Field(True, description="Quantize the 4-bit scales too; int8 ignores it")
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    quantize_head: bool = Field(False, description="Keep the embedding and the output head in 8 bits too")
