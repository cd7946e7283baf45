"""A job that cannot fit is rejected before its model is loaded."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from baichuan_core import GenerationOptions, InsufficientMemoryError, MemoryOccupiedError, memory
from baichuan_core.checkpoint import NATIVE_ENGINE, ModelCache, ModelSource
from baichuan_core.progress import Progress
from baichuan_core.quantization import quality
from jobs.specs import SPEC_ADAPTER, quantize, split_off_input, text_generation
from workers.failures import make_failure
from workers.handlers.contract import HandlerContext
from workers.memory import require_memory

FILE = "file-" + "0" * 26


def ignore(_progress: Progress) -> None:
    """Ignore progress."""


def context_of(folder: Path, **sizes: int) -> HandlerContext:
    """Return the context of a job on a model of these sizes, without weights, because nothing may be loaded."""
    known = {"hidden_size": 4096, "intermediate_size": 11_008, "num_attention_heads": 32, "vocab_size": 125_696}
    (folder / "config.json").write_text(json.dumps({**known, **sizes}))
    return HandlerContext({"model": folder}, {}, folder, folder, [], ignore)


def spec_of(**fields: Any) -> Any:
    return SPEC_ADAPTER.validate_python({"kind": "generate", "model": "m", "prompts": ["x"], **fields})


def test_a_model_larger_than_any_machine_is_permanently_rejected(tmp_path: Path) -> None:
    context = context_of(tmp_path, num_hidden_layers=1_000_000)
    with pytest.raises(InsufficientMemoryError, match=r"needs at least \d+\.\d\d GiB of memory.* GiB free; ") as raised:
        require_memory(spec_of(), context)
    failure = make_failure(raised.value)
    assert (failure.code, failure.permanent, failure.expected) == ("insufficient_memory", True, True)


def test_a_model_that_would_fit_an_empty_device_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(tmp_path, num_hidden_layers=32)
    monkeypatch.setattr(memory, "free_bytes", lambda _device=None: 2**30)
    monkeypatch.setattr(memory, "total_bytes", lambda _device=None: 15 * 2**30)
    with pytest.raises(MemoryOccupiedError, match=r"has 1.00 GiB free of 15.00 GiB; wait until") as for_now:
        require_memory(spec_of(), context)
    assert not make_failure(for_now.value).permanent
    monkeypatch.setattr(memory, "total_bytes", lambda _device=None: 13 * 2**30)
    with pytest.raises(InsufficientMemoryError, match="use a machine with more") as for_good:
        require_memory(spec_of(), context)
    assert make_failure(for_good.value).permanent


def test_a_model_to_compare_with_must_fit_as_well(tmp_path: Path) -> None:
    for name, layers in (("mine", 1), ("theirs", 1_000_000)):
        (tmp_path / name).mkdir()
        context_of(tmp_path / name, num_hidden_layers=layers, vocab_size=64)
    models = {"model": tmp_path / "mine", "compare_with": tmp_path / "theirs", "adapter": tmp_path}
    spec = SPEC_ADAPTER.validate_python(
        {"kind": "evaluate", "model": "a", "compare_with": "b", "benchmark": "perplexity", "data_file": FILE}
    )
    with pytest.raises(InsufficientMemoryError, match="the operation needs at least"):
        require_memory(spec, HandlerContext(models, {}, tmp_path, tmp_path, [], ignore))


def test_memory_that_may_not_be_enough_is_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_of(tmp_path, num_hidden_layers=1, max_position_embeddings=10**9, vocab_size=64)
    require_memory(spec_of(prompts=["x" * 60]), context)
    assert capsys.readouterr().out == ""
    require_memory(_endless(), context)
    assert "shorter inputs or smaller batches need less" in capsys.readouterr().out


def test_prompts_in_the_store_count_with_their_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_of(tmp_path, num_hidden_layers=1, max_position_embeddings=10**9, vocab_size=64)
    light = split_off_input(spec_of(prompts=["x" * 3000]))
    (tmp_path / "input.json").write_bytes(light.content)
    require_memory(light.spec, replace(context, files={"inline_input": tmp_path / "input.json"}))
    assert capsys.readouterr().out == ""  # of unknown length, a prompt could fill the whole window


def _endless() -> Any:
    fields = {"kind": "finetune", "model": "m", "training_file": FILE, "batch_size": 1024, "max_length": 32_768}
    return SPEC_ADAPTER.validate_python(fields)


def test_steps_are_counted_with_the_batches_that_the_engine_runs() -> None:
    assert quality.BATCH_TOKENS == quantize.MAX_REPORT_BATCH_TOKENS
    assert GenerationOptions().batch_tokens == text_generation.MAX_BATCH_TOKENS


def test_a_damaged_configuration_is_left_to_the_engine(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    require_memory(spec_of(), context)
    (tmp_path / "config.json").write_text("{")
    require_memory(spec_of(), context)


def loaded_from(folder: Path) -> ModelCache:
    models = ModelCache()
    models.get_or_start(ModelSource(folder), NATIVE_ENGINE, lambda: "a model")
    return models


def test_a_loaded_model_counts_as_what_the_job_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = replace(context_of(tmp_path, num_hidden_layers=32), loaded=loaded_from(tmp_path))
    monkeypatch.setattr(memory, "free_bytes", lambda _device=None: 2**30)
    monkeypatch.setattr(memory, "total_bytes", lambda _device=None: 15 * 2**30)
    require_memory(spec_of(), context)
    assert context.loaded is not None
    assert context.loaded.kept is not None


def test_a_loaded_model_is_released_for_a_job_that_does_not_fit_next_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quantizing comes before the report that could use the model."""
    context = replace(context_of(tmp_path, num_hidden_layers=32), loaded=loaded_from(tmp_path))
    assert context.loaded is not None
    free = iter([2**27])
    monkeypatch.setattr(memory, "free_bytes", lambda _device=None: next(free, 2**34))
    require_memory(SPEC_ADAPTER.validate_python({"kind": "quantize", "model": "m"}), context)
    assert context.loaded.kept is None
