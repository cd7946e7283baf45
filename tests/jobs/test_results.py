"""Results, progress and model details: stored values fit every database, and rows of other versions are readable."""

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.errors import InvalidRequestError
from jobs.models.details import AdapterDetails, CheckpointDetails, check_details, read_details
from jobs.results import (
    RESULT_ADAPTER,
    AnyResult,
    BenchmarkResult,
    ConvertResult,
    FinetuneResult,
    GenerateResult,
    JobProgress,
    PerplexityResult,
    PullResult,
    QuantizationQuality,
    QuantizeResult,
    ServeResult,
    count_tokens,
    read_progress,
    read_result,
)

NAN, INFINITY = float("nan"), float("inf")
ACCURACY = {"accuracy": 0.5, "questions": 2, "subjects": 1}
MODEL = {"name": "a", "total": ACCURACY, "categories": {"STEM": ACCURACY}, "fewer_shots": 0, "cut": 0}
COMPARED = {"difference": NAN, "ratio": INFINITY, "interval": (0.5, INFINITY), "kl_divergence": 0.0}
RESULTS: list[AnyResult] = [
    GenerateResult(
        requests=1,
        completions=1,
        resumed=0,
        prompt_tokens=2,
        completion_tokens=3,
        generated_tokens=3,
        seconds=0.5,
        tokens_per_second=6.0,
        engine="transformers",
        engine_reason="requested",
    ),
    QuantizeResult(
        method="nf4",
        bytes_before=2,
        bytes_after=1,
        relative_errors={"a": NAN, "b": 0.5},
        mean_relative_error=NAN,
        quality=QuantizationQuality.model_validate(
            {"text": "built-in", "tokens": 3, "models": [{"name": "nf4", "weight_bytes": 1, "perplexity": INFINITY}]}
        ),
    ),
    ConvertResult(target="gguf", tensors=1, bytes_before=2, bytes_after=1),
    ServeResult(
        chats=2,
        aborted=1,
        refused=0,
        prompt_tokens=9,
        completion_tokens=4,
        seconds=60.0,
        engine="transformers",
        engine_reason="the only one",
    ),
    FinetuneResult(
        final_loss=-INFINITY,
        steps=1,
        examples=1,
        dropped_examples=0,
        truncated_examples=0,
        trained_parameters=5,
        resumed_from_step=0,
    ),
    BenchmarkResult.model_validate(
        {
            "benchmark": "C-Eval",
            "split": "val",
            "shots": 5,
            "averaging": "subjects",
            "model": MODEL,
            "compared_with": None,
            "comparison": None,
        }
    ),
    PerplexityResult.model_validate(
        {
            "window": 8,
            "windows": 1,
            "tokens": 7,
            "model": {"name": "a", "perplexity": NAN},
            "compared_with": {"name": "b", "perplexity": 2.0},
            "comparison": {**COMPARED, "top_1_agreement": 1.0, "method": "m"},
        }
    ),
    PullResult(
        endpoint="https://hub.example",
        repository="a/b",
        revision="main",
        commit="0" * 40,
        files=3,
        total_bytes=9,
        received_bytes=4,
        skipped=1,
        skipped_files=["modeling.py"],
    ),
]


def has_only_finite_numbers(value: Any) -> bool:
    """Return whether JSON can represent every number in `value`."""
    match value:
        case float():
            return abs(value) < INFINITY
        case dict():
            return all(has_only_finite_numbers(item) for item in value.values())
        case list():
            return all(has_only_finite_numbers(item) for item in value)
        case _:
            return True


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: type(result).__name__)
def test_a_result_is_read_as_the_class_that_was_stored(result: AnyResult) -> None:
    stored = result.model_dump(mode="json")
    assert has_only_finite_numbers(stored)
    assert read_result(result.kind, stored) == result
    untagged = {name: value for name, value in stored.items() if name != "kind"}  # as the first version stored it
    assert read_result(result.kind, untagged) == result
    assert RESULT_ADAPTER.validate_json(RESULT_ADAPTER.dump_json(result)) == result


def test_numbers_that_are_not_finite_become_null() -> None:
    quantized, trained = RESULTS[1].model_dump(mode="json"), RESULTS[4].model_dump(mode="json")
    assert (quantized["relative_errors"], quantized["mean_relative_error"]) == ({"a": None, "b": 0.5}, None)
    assert (quantized["quality"]["models"][0]["perplexity"], trained["final_loss"]) == (None, None)
    progress = JobProgress(fraction=0.5, stage="training", metrics={"loss": NAN, "rate": 1.5, "step": 40})
    assert progress.model_dump(mode="json")["metrics"] == {"loss": None, "rate": 1.5, "step": 40}


@pytest.mark.parametrize("kind", ["generate", "quantize", "convert", "finetune", "evaluate", "of another version"])
@pytest.mark.parametrize("stored", [{}, {"files": 2}, {"kind": 3}, {"steps": "many", "final_loss": []}])
def test_a_result_with_other_fields_is_read_as_it_is(kind: str, stored: dict[str, Any]) -> None:
    assert read_result(kind, stored) == stored


def test_tokens_of_a_serve_job_are_counted_with_its_chats() -> None:
    assert [count_tokens(RESULTS[index].model_dump(mode="json")) for index in (0, 3)] == [5, 0]


def test_a_handler_cannot_return_unknown_fields() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        ConvertResult(target="gguf", tensors=1, bytes_before=2, bytes_after=1, files=3)  # type: ignore[call-arg]


def test_progress_with_other_fields_is_omitted() -> None:
    assert read_result("generate", None) is None
    assert read_progress(None) is None
    assert read_progress({"percent": 50}) is None
    assert read_progress({"fraction": 0.5}) == JobProgress(fraction=0.5)


def test_details_are_read_by_the_kind_of_the_model() -> None:
    stored = check_details("checkpoint", {"bytes": 5, "hidden_size": 8, "precision": None}, "config.json")
    assert stored == {"bytes": 5, "hidden_size": 8, "precision": None}
    assert read_details("checkpoint", stored) == CheckpointDetails(bytes=5, hidden_size=8)
    assert read_details("adapter", {"bytes": 5, "lora_alpha": 8.5}) == AdapterDetails(bytes=5, lora_alpha=8.5)


@pytest.mark.parametrize(
    ("kind", "stored"), [("checkpoint", {}), ("adapter", {"bytes": 5, "rank": 3}), ("onnx", {"bytes": 5})]
)
def test_details_with_other_fields_are_read_as_they_are(kind: str, stored: dict[str, Any]) -> None:
    assert read_details(kind, stored) == stored


def test_a_model_whose_details_have_another_type_names_the_field() -> None:
    with pytest.raises(InvalidRequestError, match=r"config\.json has hidden_size 'wide': Input should be a valid int"):
        check_details("checkpoint", {"bytes": 5, "hidden_size": "wide"}, "config.json")
