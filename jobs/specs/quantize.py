"""Spec of a quantize job, which quantizes a checkpoint with bitsandbytes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Self

from pydantic import Field, model_validator

from footprint import Footprint, estimate_calibration, estimate_quantization, estimate_scoring
from jobs.specs.fields import Dtype, FileId
from jobs.specs.job_spec import ModelInputSpec, ModelOutputSpec
from jobs.specs.model_properties import ModelProperties
from jobs.specs.suitability import ChosenModel, Incompatibility

MAX_REPORT_BATCH_TOKENS = 1024  # maximum number of tokens per batch, as in `baichuan_core.quantization.quality`


class QuantizeSpec(ModelInputSpec, ModelOutputSpec):
    """A job that writes an int8 (LLM.int8()), NF4 or FP4 checkpoint, which loads without extra options."""

    kind: Literal["quantize"]
    method: Literal["int8", "nf4", "fp4"] = "nf4"
    double_quantization: bool = Field(True, description="Quantize the 4-bit scales too; ignored for int8")
    compute_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    quantize_head: bool = Field(False, description="Store the embedding and the output head in 8 bits too")
    calibration: bool = Field(
        False,
        description="Choose the codes (int8: the outliers) by what the model computes on a text: less quality loss at "
        "equal size",
    )
    calibration_file: FileId | None = Field(
        None,
        description="UTF-8 text, or training conversations, to calibrate on; by default, a built-in Chinese and "
        "English text",
    )
    calibration_sequences: int = Field(
        32, ge=4, le=1024, description="Maximum number of 512-token sequences to calibrate on"
    )
    quality_report: bool = Field(
        True, description="Measure the quality of the result, and write quality.json and quality.png"
    )
    quality_text_file: FileId | None = Field(
        None, description="UTF-8 text to measure on; by default, a built-in Chinese and English text"
    )

    @model_validator(mode="after")
    def _check_quality_text(self) -> Self:
        if self.quality_text_file is not None and not self.quality_report:
            raise ValueError("quality_text_file requires quality_report; leave it out, or set quality_report to true")
        return self

    @model_validator(mode="after")
    def _check_calibration_file(self) -> Self:
        if self.calibration_file is not None and not self.calibration:
            raise ValueError("calibration_file requires calibration; leave it out, or set calibration to true")
        if self.calibration_file is not None and self.calibration_file == self.quality_text_file:
            raise ValueError("quality_text_file is the same as calibration_file; measure on another text")
        return self

    def list_file_references(self) -> dict[str, str]:
        """See `JobSpec.list_file_references`."""
        files = {"quality_text_file": self.quality_text_file, "calibration_file": self.calibration_file}
        return {field: file_id for field, file_id in files.items() if file_id is not None}

    @property
    def loaded_dtype(self) -> Dtype | None:
        """See `JobSpec.loaded_dtype`; only the report runs the model."""
        return "auto" if self.quality_report else None

    def find_incompatibility(self, model: ChosenModel) -> Incompatibility | None:
        """See `ModelInputSpec.find_incompatibility`."""
        if model.is_quantized:
            return Incompatibility("model", "is quantized already; use the checkpoint it was made from")
        return None

    def estimate_footprints(self, model: ModelProperties, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002 - the same on CPU and GPU
        """See `JobSpec.estimate_footprints`; the report skips measurements that would need more memory."""
        steps = [estimate_quantization(model.shape, quantize_head=self.quantize_head)]
        if self.calibration:
            steps.append(estimate_calibration(model.shape, sequences=self.calibration_sequences))
        if self.quality_report:
            steps.append(
                replace(estimate_scoring(model.shape, model.precision, tokens=MAX_REPORT_BATCH_TOKENS), least=0)
            )
        return steps
