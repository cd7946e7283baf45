"""Memory estimates are within 5% of what torch allocates."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan_core import (
    BaichuanConfig,
    BaichuanForCausalLM,
    FinetuningOptions,
    GenerationOptions,
    GenerationRequest,
    InsufficientMemoryError,
    QuantizationOptions,
    TextGenerator,
    finetune,
    load_model,
    quantize,
)
from baichuan_core.free_memory import total_bytes
from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.native.engine import NativeEngine
from baichuan_core.host_memory import cgroup_free_bytes, cgroup_limits
from baichuan_core.likelihood import compute_next_token_log_likelihoods, perplexity, split_into_windows
from baichuan_core.memory import (
    PRESETS,
    Footprint,
    ModelShape,
    Precision,
    TrainingSettings,
    cache_bytes,
    compute_max_cached_prefix_tokens,
    estimate_finetuning,
    estimate_inference,
    estimate_scoring,
    free_bytes,
    measure_peak_memory,
    read_config,
    require_memory,
)
from baichuan_core.model import chunked_loss
from footprint.finetuning import MAX_LOGITS_PER_CHUNK
from tests.baichuan_core.generation.driving import complete

pytestmark = pytest.mark.slow  # every test runs a separate process

WITHIN = 0.05
MIDDLE: dict[str, Any] = {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4}
HEADS: dict[str, Any] = {"num_attention_heads": 4}
# Small weights, so that errors in the estimate of activations are noticeable.
SMALL: dict[str, Any] = {"vocab_size": 1024, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4}
FAMILIES: dict[str, dict[str, Any]] = {"rope": {"max_position_embeddings": 2048}, "alibi": {"model_max_length": 2048}}


def shape_of(checkpoint: Path) -> ModelShape:
    return ModelShape.from_config(read_config(checkpoint))


def held_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of all tensors of a model, including those inside quantized weights."""
    tensors = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            nested = state.state2
            parts = [state.absmax, state.code, *([nested.absmax, nested.code, state.offset] if nested else [])]
            tensors |= {id(part): part for part in parts}
        if isinstance(scales := getattr(parameter, "SCB", None), torch.Tensor):
            tensors[id(scales)] = scales
    return sum(tensor.nbytes for tensor in tensors.values())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Random checkpoints of medium size, created once."""
    root = tmp_path_factory.mktemp("checkpoints")
    golden = Path(__file__).parents[1] / "golden"

    def make(family: str, dtype: str = "float32", sizes: dict[str, Any] = MIDDLE) -> Path:
        folder = root / f"{family}-{dtype}-{sizes['hidden_size']}-{sizes['num_hidden_layers']}"
        if not folder.exists():
            torch.manual_seed(0)
            model: Any = BaichuanForCausalLM(BaichuanConfig(**sizes, **HEADS, **FAMILIES[family], norm_head=True))
            model.to(getattr(torch, dtype)).save_pretrained(folder)
            shutil.copyfile(golden / "chat" / "tokenizer.model", folder / "tokenizer.model")
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BaichuanTokenizer"}')
        return folder

    return make


@pytest.mark.parametrize(
    "options",
    [
        None,
        QuantizationOptions(method="int8"),
        QuantizationOptions(method="nf4"),
        QuantizationOptions(method="nf4", double_quantization=False),
        QuantizationOptions(method="nf4", quantize_head=True),
    ],
    ids=["plain", "int8", "nf4", "nf4, simple scales", "nf4, 8-bit head"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_of_a_loaded_model(
    checkpoints: Callable[..., Path], tmp_path: Path, options: QuantizationOptions | None, dtype: str
) -> None:
    checkpoint = checkpoints("rope", dtype)
    if options is not None:
        quantize(checkpoint, tmp_path / "quantized", options)
        checkpoint = tmp_path / "quantized"
    precision = Precision.from_config(read_config(checkpoint))
    assert precision.dtype == dtype
    predicted = precision.weight_bytes(shape_of(checkpoint))
    assert predicted == pytest.approx(held_bytes(load_model(checkpoint, device="cpu")), rel=0.001)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cache_and_activations_of_a_forward_pass(checkpoints: Callable[..., Path], family: str, dtype: str) -> None:
    checkpoint = checkpoints(family, dtype)
    shape, precision = shape_of(checkpoint), Precision.from_config(read_config(checkpoint))
    model = load_model(checkpoint, device="cpu")
    ids = torch.randint(5, 4000, (2, 1024))
    with torch.inference_mode():
        model(ids[:, :8])  # computed once: the norms of the head
        with measure_peak_memory("cpu") as peak:
            outputs = model.model(ids, use_cache=True)
    cache = sum(tensor.nbytes for layer in outputs.past_key_values.layers for tensor in (layer.keys, layer.values))
    assert cache == cache_bytes(shape, precision, batch=2, tokens=1024)
    predicted = estimate_inference(shape, precision, batch=2, tokens=1024)
    assert predicted.cache + predicted.activations == pytest.approx(peak.bytes, rel=WITHIN)


@pytest.mark.alone
def test_a_generate_run_whose_prompts_share_a_prefix(checkpoints: Callable[..., Path]) -> None:
    # Many narrow layers, so that keys and values need most of the memory.
    sizes = {"vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 128}
    checkpoint = checkpoints("rope", sizes=sizes)
    alike = [GenerationRequest(prompt="hello world " * 125 + str(number)) for number in range(3)]
    options = GenerationOptions(max_new_tokens=4, batch_size=2, batch_tokens=2 * 1100, temperature=0, device="cpu")
    generator = TextGenerator(checkpoint, options)
    encoded = generator.encode(alike)

    def answer(requests: list[EncodedRequest]) -> None:
        model = load_model(checkpoint, device="cpu").prepack()
        setup = generator.setup
        complete(NativeEngine(model, generator.tokenizer, setup.settings, setup.end_token_ids), requests)

    answer(encoded[:1])
    with measure_peak_memory("cpu") as peak:  # measures this thread only, and `generate` computes in another one
        answer(encoded)
    prompt = len(encoded[0].prompt_ids)
    shared = compute_max_cached_prefix_tokens([prompt] * 3, batch_tokens=options.batch_tokens)
    needs = estimate_inference(shape_of(checkpoint), Precision("float32"), batch=2, tokens=prompt + 4, shared=shared)
    assert needs.total == pytest.approx(peak.bytes, rel=WITHIN)


@pytest.mark.parametrize(
    ("family", "base", "method", "dtype", "gradient_checkpointing", "accumulation"),
    [
        ("rope", None, "full", "float32", False, 2),
        ("alibi", None, "full", "bfloat16", True, 1),
        ("rope", None, "lora", "float32", False, 1),
        ("rope", "nf4", "lora", "bfloat16", True, 1),
        ("alibi", "int8", "lora", "bfloat16", False, 1),
        pytest.param("rope", None, "full", "float32", False, 1, marks=pytest.mark.alone),
        pytest.param("alibi", None, "full", "float32", True, 1, marks=pytest.mark.alone),
        pytest.param("alibi", None, "full", "bfloat16", False, 1, marks=pytest.mark.alone),
        pytest.param("rope", None, "full", "bfloat16", True, 1, marks=pytest.mark.alone),
        pytest.param("alibi", None, "lora", "bfloat16", True, 1, marks=pytest.mark.alone),
        pytest.param("alibi", "nf4", "lora", "float32", False, 1, marks=pytest.mark.alone),
        pytest.param("rope", "int8", "lora", "float32", True, 1, marks=pytest.mark.alone),
    ],
)
def test_a_training_run(
    checkpoints: Callable[..., Path],
    tmp_path: Path,
    family: str,
    base: Any,
    method: Any,
    dtype: Any,
    gradient_checkpointing: bool,
    accumulation: int,
) -> None:
    checkpoint = checkpoints(family, dtype if method == "lora" else "float32", SMALL)
    if base is not None:
        quantize(checkpoint, tmp_path / "base", QuantizationOptions(method=base))
        checkpoint = tmp_path / "base"
    shared = {"method": method, "gradient_checkpointing": gradient_checkpointing}
    measured = trained_bytes(tmp_path, checkpoint, accumulation=accumulation, dtype=dtype, **shared)
    precision = replace(Precision.from_config(read_config(checkpoint)), dtype=dtype)
    training = TrainingSettings(**shared, batch=4, tokens=256, accumulation=accumulation, on_gpu=False)
    assert estimate_finetuning(shape_of(checkpoint), precision, training).total == pytest.approx(measured, rel=WITHIN)


@pytest.mark.alone
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "targets",
    [
        ("o_proj",),
        ("gate_proj",),
        ("down_proj",),
        ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"),
        ("W_pack", "lm_head"),
    ],
    ids=["o_proj", "gate_proj", "down_proj", "all", "head"],
)
def test_adapters_on_other_layers(
    checkpoints: Callable[..., Path], tmp_path: Path, dtype: Any, targets: tuple[str, ...]
) -> None:
    checkpoint = checkpoints("rope", dtype, SMALL)
    measured = trained_bytes(
        tmp_path, checkpoint, accumulation=1, dtype=dtype, method="lora", gradient_checkpointing=False,
        lora_target_modules=targets,
    )  # fmt: skip
    training = TrainingSettings(
        method="lora", batch=4, tokens=256, gradient_checkpointing=False, lora_targets=targets, on_gpu=False
    )
    predicted = estimate_finetuning(shape_of(checkpoint), Precision(dtype), training).total
    assert predicted == pytest.approx(measured, rel=WITHIN)


@pytest.mark.alone
@pytest.mark.parametrize("targets", [("down_proj",), ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")])
def test_adapters_on_other_layers_of_a_4_bit_base(
    checkpoints: Callable[..., Path], tmp_path: Path, targets: tuple[str, ...]
) -> None:
    quantize(checkpoints("rope", "bfloat16", SMALL), tmp_path / "base", QuantizationOptions(method="nf4"))
    measured = trained_bytes(
        tmp_path, tmp_path / "base", accumulation=1, dtype="bfloat16", method="lora", gradient_checkpointing=True,
        lora_target_modules=targets,
    )  # fmt: skip
    training = TrainingSettings(method="lora", batch=4, tokens=256, lora_targets=targets, on_gpu=False)
    precision = Precision.from_config(read_config(tmp_path / "base"))
    predicted = estimate_finetuning(shape_of(tmp_path / "base"), precision, training).total
    assert predicted == pytest.approx(measured, rel=WITHIN)


def trained_bytes(tmp_path: Path, checkpoint: Path, *, accumulation: int, dtype: Any, **options: Any) -> int:
    """Return the peak bytes of two steps with four examples of 256 tokens per batch."""
    turns = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "hello world " * 300}]
    examples = [{"id": str(number), "conversations": turns} for number in range(8 * accumulation)]
    (tmp_path / "data.json").write_text(json.dumps(examples))
    chosen = FinetuningOptions(
        **options, batch_size=4, gradient_accumulation_steps=accumulation, epochs=1, max_length=256, dtype=dtype
    )
    with measure_peak_memory("cpu") as peak:
        finetune(checkpoint, tmp_path / "data.json", tmp_path / "out", chosen, checkpoints=tmp_path / "checkpoints")
    return peak.bytes


@pytest.mark.parametrize(("method", "dtype"), [("full", "float32"), ("lora", "bfloat16")])
def test_a_training_run_whose_loss_has_several_chunks(
    checkpoints: Callable[..., Path], tmp_path: Path, method: Any, dtype: Any
) -> None:
    sizes = {"vocab_size": 32_768, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
    assert MAX_LOGITS_PER_CHUNK["cpu"] < 4 * 256 * sizes["vocab_size"] / 1.9
    checkpoint = checkpoints("rope", "float32" if method == "full" else dtype, sizes)
    measured = trained_bytes(
        tmp_path, checkpoint, accumulation=1, dtype=dtype, method=method, gradient_checkpointing=False
    )
    training = TrainingSettings(method=method, batch=4, tokens=256, gradient_checkpointing=False, on_gpu=False)
    predicted = estimate_finetuning(shape_of(checkpoint), Precision(dtype), training).total
    assert predicted == pytest.approx(measured, rel=WITHIN)


def test_chunks_of_the_loss_are_those_of_the_model() -> None:
    assert MAX_LOGITS_PER_CHUNK == chunked_loss.MAX_LOGITS_PER_CHUNK


@pytest.mark.parametrize("family", FAMILIES)
def test_scoring_a_text(checkpoints: Callable[..., Path], family: str) -> None:
    checkpoint = checkpoints(family, sizes={**MIDDLE, "num_hidden_layers": 1})
    model = load_model(checkpoint, device="cpu")
    windows = split_into_windows(list(range(5, 4000)) * 3, length=256, stride=256)[:40]
    perplexity(model, windows[:1])
    with measure_peak_memory("cpu") as peak:
        perplexity(model, windows, batch_tokens=40 * 256)
    needs = estimate_scoring(shape_of(checkpoint), Precision("float32"), tokens=40 * 256)
    assert needs.total == pytest.approx(held_bytes(model) + peak.bytes, rel=WITHIN)


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_before_questions_stay_below_the_estimate(checkpoints: Callable[..., Path], family: str) -> None:
    checkpoint = checkpoints(family)
    model = load_model(checkpoint, device="cpu")
    prompts = [[*range(5, 1505), *range(number, number + 20)] for number in range(100, 108)]
    compute_next_token_log_likelihoods(model, [[7, 8]], [9])
    with measure_peak_memory("cpu") as peak:
        compute_next_token_log_likelihoods(model, prompts, [9], batch_tokens=8192)
    needs = estimate_scoring(shape_of(checkpoint), Precision("float32"), tokens=8192, shared=1500)
    assert needs.cache < peak.bytes <= needs.cache + needs.activations


def test_operations_that_cannot_fit_are_rejected_with_alternatives() -> None:
    shape = PRESETS["baichuan2-7b"]
    free = free_bytes("cpu")
    assert free < total_bytes("cpu") < 2**60
    require_memory(Footprint(free, least=free // 2), shape, device="cpu")
    with pytest.raises(
        InsufficientMemoryError, match=r"at least .* GiB of memory, but cpu has .* an alternative that would fit: as"
    ) as error:
        require_memory(Footprint(2**60, least=2**60), shape, device="cpu")
    assert "as nf4 (5.03 GiB)" in str(error.value)
    with pytest.raises(InsufficientMemoryError, match="an alternative that would fit: with method lora on"):
        require_memory(Footprint(2**60, optimizer=2**60, least=2**60), shape, device="cpu")
    with pytest.raises(InsufficientMemoryError, match="use a machine with more"):
        require_memory(Footprint(2**60, least=2**60, place="host"), shape)


def test_the_limit_of_a_container_counts_without_pages_of_files(tmp_path: Path) -> None:
    assert list(cgroup_free_bytes(tmp_path)) == []
    content = {
        "memory.max": "1000",
        "memory.current": "900",
        "memory.stat": "anon 5\nactive_file 20\ninactive_file 30\n",
    }
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    assert list(cgroup_free_bytes(tmp_path)) == [150]
    assert list(cgroup_limits(tmp_path)) == [1000]
    (tmp_path / "memory.max").write_text("max\n")
    assert list(cgroup_free_bytes(tmp_path)) == list(cgroup_limits(tmp_path)) == []
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.limit_in_bytes").write_text("1000\n")
    (old / "memory.usage_in_bytes").write_text("400\n")
    (old / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 7\n")
    assert list(cgroup_free_bytes(tmp_path)) == [607]
