"""The result classes name exactly the fields of the engine's reports."""

from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel

from baichuan_core.conversion import ConversionReport
from baichuan_core.evaluation import BenchmarkReport, PerplexityReport
from baichuan_core.finetuning import FinetuningReport
from baichuan_core.generation import GenerationReport
from baichuan_core.quantization import QualityReport, QuantizationReport
from jobs.results import (
    BenchmarkResult,
    ConvertResult,
    FinetuneResult,
    GenerateResult,
    PerplexityResult,
    QuantizationQuality,
    QuantizeResult,
)

# Fields that are not in both: `kind`, what a property computes or a second report gives, and what only artifacts hold.
DIFFERING = {"kind", "tokens_per_second", "quality", "subjects", "relative_errors", "rejected"}


def members(hint: Any) -> list[Any]:
    """Classes in a type hint, None left out."""
    inner = [found for argument in get_args(hint) for found in members(argument)]
    return inner or ([hint] if isinstance(hint, type) and hint is not NoneType else [])


def check_same_fields(result: type[BaseModel], report: Any) -> None:
    """Compare the names, and those of the dataclasses and models within."""
    names = {field.name for field in fields(report)}
    assert set(result.model_fields) ^ names <= DIFFERING, (result, report)
    hints = get_type_hints(report)
    for name in set(result.model_fields) & names:
        nested = [each for each in members(hints[name]) if is_dataclass(each)]
        schemas = [each for each in members(result.model_fields[name].annotation) if issubclass(each, BaseModel)]
        assert len(nested) == len(schemas), name
        for schema, dataclass in zip(schemas, nested, strict=True):
            check_same_fields(schema, dataclass)


@pytest.mark.parametrize(
    ("result", "report"),
    [
        (GenerateResult, GenerationReport),
        (QuantizeResult, QuantizationReport),
        (QuantizationQuality, QualityReport),
        (ConvertResult, ConversionReport),
        (FinetuneResult, FinetuningReport),
        (BenchmarkResult, BenchmarkReport),
        (PerplexityResult, PerplexityReport),
    ],
)
def test_every_field_of_a_report_is_in_the_result(result: type[BaseModel], report: type) -> None:
    check_same_fields(result, report)
