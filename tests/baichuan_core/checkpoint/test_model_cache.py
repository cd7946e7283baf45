"""A loaded model is reused, unless anything about it has changed."""

import gc
import os
import shutil
import weakref
from pathlib import Path

import pytest

from baichuan_core.checkpoint import NATIVE_ENGINE, ModelCache, ModelSource
from baichuan_core.evaluation import evaluate_perplexity
from baichuan_core.generation import GenerationOptions, GenerationRequest, TextGenerator, generate
from examples.tiny_checkpoint import make_tiny_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_tiny_checkpoint(tmp_path / "model")


def test_the_same_source_is_loaded_once_and_only_one_model_exists(checkpoint: Path) -> None:
    models = ModelCache()
    source = ModelSource(checkpoint)
    first = models.load(source)
    assert models.load(ModelSource(checkpoint)) is first
    assert models.is_loaded(source)
    gone = weakref.ref(first)
    del first
    models.load(ModelSource(checkpoint, dtype="bfloat16"))
    gc.collect()
    assert gone() is None
    assert not models.is_loaded(source)
    models.release()
    assert models.kept is None


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_or_replaced_file_is_noticed(checkpoint: Path, name: str) -> None:
    models, source = ModelCache(), ModelSource(checkpoint)
    first = models.load(source)
    file = next(iter(checkpoint.glob(name)), checkpoint / "config.json")
    times = file.stat()
    shutil.copy(file, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # size and time are the same as before
    assert not models.is_loaded(source)
    assert models.load(source) is not first


def test_a_model_that_cannot_be_loaded_leaves_nothing_behind(checkpoint: Path) -> None:
    models = ModelCache()
    models.load(ModelSource(checkpoint))

    def fail() -> None:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        models.get_or_start(ModelSource(checkpoint, dtype="float16"), NATIVE_ENGINE, fail)
    assert models.kept is None


def test_an_engine_is_kept_with_its_settings_and_closed_when_released(checkpoint: Path) -> None:
    ended: list[str] = []

    class Engine:
        def __init__(self, name: str) -> None:
            self.name = name

        def close(self) -> None:
            ended.append(self.name)

    models, source = ModelCache(), ModelSource(checkpoint)
    first = models.get_or_start(source, "engine", lambda: Engine("first"), variant=32)
    assert models.get_or_start(source, "engine", lambda: Engine("again"), variant=32) is first
    models.get_or_start(source, "engine", lambda: Engine("second"), variant=16)
    assert ended == ["first"]
    assert not models.is_loaded(source)
    models.load(source)
    assert ended == ["first", "second"]


def test_operations_share_the_model_and_answer_the_same(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a queue has two ends " * 60, encoding="utf-8")
    requests = [GenerationRequest(prompt="你好"), GenerationRequest(prompt="a queue")]
    options = GenerationOptions(max_new_tokens=16, temperature=0.8, seed=3)
    models = ModelCache()
    generate(checkpoint, requests, tmp_path / "cold.jsonl", options)
    generate(checkpoint, requests, tmp_path / "first.jsonl", options, models=models)
    kept = models.kept
    warm = evaluate_perplexity(checkpoint, text, tmp_path / "warm", models=models)
    generate(checkpoint, requests, tmp_path / "second.jsonl", options, models=models)
    assert TextGenerator(checkpoint, models=models).tokenizer is models.load_tokenizer(checkpoint)
    assert models.kept is kept is not None
    files = [(tmp_path / f"{name}.jsonl").read_bytes() for name in ("cold", "first", "second")]
    assert files[0] == files[1] == files[2]
    assert warm == evaluate_perplexity(checkpoint, text, tmp_path / "cold")
