"""Loads models and tokenizers from checkpoint directories."""

from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch
from transformers import BitsAndBytesConfig, GenerationConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError, TokenizerError, UnsupportedError
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.model.eight_bit_embedding_and_head import EightBitMatrix
from baichuan_core.model.quantization import (
    QuantizationMethod,
    make_quantization_settings,
    require_four_bit_shapes,
)
from baichuan_core.tokenizer import BaichuanTokenizer, read_generation_settings
from checkpoint_files import FileError, check_end_tokens, check_tokenizer_files, missing_row_message
from checkpoint_files.layout import linear_layers

from .adapters import LoraAdapter
from .companions import read_config
from .file_errors import translate_file_errors
from .reader import TensorReader
from .streaming import StreamingQuantizationConfig
from .validation import check_tensors, is_quantized

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DeviceMap = str | dict[str, str | int | torch.device]
AUTOMATIC_DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


def load_model(
    checkpoint: Path | str,
    *,
    dtype: DtypeName = "auto",
    device: str | None = None,
    device_map: DeviceMap | None = None,
    adapter: Path | str | None = None,
    quantization: QuantizationMethod | BitsAndBytesConfig | None = None,
    quantize_head: bool = False,
) -> BaichuanForCausalLM:
    """Load a model in eval mode, after checking the files of its checkpoint.

    With `quantization`, each tensor is quantized on its device before the next one is read, so memory holds the
    quantized model and a single unquantized weight.

    Args:
        checkpoint: Directory with `config.json` and safetensors or `.bin` weights, quantized or not.
        dtype: Dtype of the weights; "auto" means the checkpoint's dtype.
        device: Device of the weights, e.g. "cpu" or "cuda:0"; by default the first GPU, or the CPU if there is none.
        device_map: Placement on several devices as in accelerate, e.g. "auto", instead of `device`.
        adapter: Directory of a LoRA adapter that was made for this checkpoint; its layers are added to the model.
        quantization: Quantize during loading: "int8", "nf4" or "fp4" as `quantize` does, or custom settings.
        quantize_head: Also quantize the embedding and the output head to 8 bits; requires `quantization`.

    Raises:
        CheckpointError: A file is missing or damaged, or the tensors do not match the configuration.
        AdapterMismatchError: The adapter was made for another base model.
        UnsupportedError: The dtype, device or quantization is unknown or unavailable, the checkpoint is already
            quantized, or a layer has no 4-bit kernel on this device.
    """
    checkpoint, adapter = Path(checkpoint), None if adapter is None else Path(adapter)
    config, torch_dtype = read_config(checkpoint), _parse_dtype(dtype)
    settings = _resolve_quantization(config, checkpoint, quantization, quantize_head)
    devices = _resolve_devices(device, device_map)
    with TensorReader(checkpoint) as reader:
        check_tensors(reader, config)
    _require_four_bit_kernels(config, settings, devices)
    lora = None if adapter is None else LoraAdapter.read(adapter, checkpoint)
    _require_unquantized_base(lora, quantization)
    config.quantize_head = quantize_head or config.quantize_head
    model = BaichuanForCausalLM.from_pretrained(
        checkpoint,
        config=config,  # without the fields that other tools left in config.json
        generation_config=_read_generation_config(checkpoint, config),
        dtype=torch_dtype,
        # ZeRO-3 shards the weights across all ranks itself.
        device_map=None if is_deepspeed_zero3_enabled() else devices,
        quantization_config=settings and StreamingQuantizationConfig(settings),
        local_files_only=True,
    )
    if not isinstance(model, BaichuanForCausalLM):
        raise CheckpointError(f"{checkpoint} did not load as a Baichuan model")
    if isinstance(torch_dtype, torch.dtype) and not is_deepspeed_zero3_enabled():
        _cast_floats(model, torch_dtype)
    if lora is not None:
        lora.inject_into(model)
    return model


def load_tokenizer(checkpoint: Path | str) -> BaichuanTokenizer:
    """Load the tokenizer of a checkpoint directory.

    Raises:
        TokenizerError: The tokenizer is missing, cannot be read, or has a token without an embedding.
        CheckpointError: `config.json` is missing or damaged.
    """
    checkpoint = Path(checkpoint)
    file = checkpoint / "tokenizer.model"
    if not file.is_file():
        raise TokenizerError(f"{file} is missing: copy tokenizer.model and tokenizer_config.json next to the weights")
    embeddings = read_config(checkpoint).vocab_size
    try:
        check_tokenizer_files(checkpoint, embeddings)
        tokenizer = BaichuanTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except FileError as error:
        raise TokenizerError(str(error)) from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise TokenizerError(
            f"{file} or its tokenizer_config.json cannot be read ({error}): copy or download both again"
        ) from error
    if not isinstance(tokenizer, BaichuanTokenizer):
        raise TokenizerError(f"{checkpoint} has no Baichuan tokenizer: use a checkpoint of the Baichuan family")
    padding = tokenizer.pad_token
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= embeddings:
        # Some fine-tuning tools add a padding token without adding a row to the embedding. Padding is masked, so any
        # valid id works; use the padding id of the published tokenizers.
        _remove_added_token(tokenizer, padding)
        tokenizer.pad_token = tokenizer.unk_token
    for token, token_id in tokenizer.added_tokens_encoder.items():
        if token_id >= embeddings:
            raise TokenizerError(missing_row_message(checkpoint, token, token_id, embeddings))
    return tokenizer


def _read_generation_config(checkpoint: Path, config: BaichuanConfig) -> GenerationConfig:
    """Read generation settings as transformers does, but accept a byte order mark and integers stored as floats."""
    settings = read_generation_settings(checkpoint)
    with translate_file_errors():
        check_end_tokens({"eos_token_id": config.eos_token_id}, config.vocab_size, checkpoint / "config.json")
        check_end_tokens(settings, config.vocab_size, checkpoint / "generation_config.json")
    if settings:
        return GenerationConfig.from_dict(settings)
    return GenerationConfig.from_model_config(config)


def _remove_added_token(tokenizer: BaichuanTokenizer, token: str) -> None:
    """Remove an added token, so that its text is tokenized like any other."""
    token_id = tokenizer._added_tokens_encoder.pop(token)
    del tokenizer._added_tokens_decoder[token_id]
    tokenizer.tokens_trie = type(tokenizer.tokens_trie)()
    tokenizer._update_trie()
    tokenizer._update_total_vocab_size()


def _parse_dtype(name: str) -> str | torch.dtype:
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise UnsupportedError(f'dtype {name!r} is unknown: use "auto", "float32", "bfloat16" or "float16"')
    if name == "auto":
        return name
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _resolve_quantization(
    config: BaichuanConfig,
    checkpoint: Path,
    quantization: QuantizationMethod | BitsAndBytesConfig | None,
    quantize_head: bool,
) -> BitsAndBytesConfig | None:
    if quantization is None:
        if quantize_head and not config.quantize_head:
            raise UnsupportedError('quantize_head requires quantization: set, for example, quantization="int8"')
        return None
    if is_quantized(config):
        raise UnsupportedError(f"{checkpoint} is already quantized: load it without quantization")
    if quantize_head and config.tie_word_embeddings:
        raise UnsupportedError(
            f"{checkpoint} uses its embedding as its output head (tie_word_embeddings): load it without quantize_head"
        )
    if isinstance(quantization, BitsAndBytesConfig):
        return _check_custom_settings(quantization)
    return make_quantization_settings(quantization)


def _check_custom_settings(settings: BitsAndBytesConfig) -> BitsAndBytesConfig:
    """Check that custom settings would have an effect, and return a copy that excludes the output head.

    `quantize_head` alone decides whether the head is quantized.
    """
    if not (settings.load_in_4bit or settings.load_in_8bit):
        raise UnsupportedError(
            "this BitsAndBytesConfig quantizes nothing: set load_in_4bit or load_in_8bit, or omit quantization"
        )
    if settings.llm_int8_has_fp16_weight:
        raise UnsupportedError("llm_int8_has_fp16_weight keeps the weights as floats: do not set it")
    settings = deepcopy(settings)
    if settings.llm_int8_skip_modules is not None:  # transformers excludes the head by default only if this is None
        settings.llm_int8_skip_modules = sorted({*settings.llm_int8_skip_modules, "lm_head"})
    return settings


def _require_four_bit_kernels(config: BaichuanConfig, settings: BitsAndBytesConfig | None, devices: DeviceMap) -> None:
    """Reject layers for which the 4-bit CPU kernels would fail in the first forward pass."""
    saved = config.quantization_config if is_quantized(config) else {}
    four_bits = settings.load_in_4bit if settings is not None else saved.get("load_in_4bit")
    places = set(devices.values()) if isinstance(devices, dict) else {"cuda" if torch.cuda.is_available() else "cpu"}
    if four_bits and any(torch.device(place).type == "cpu" for place in places if place != "disk"):
        require_four_bit_shapes(linear_layers(config))


def _require_unquantized_base(lora: LoraAdapter | None, quantization: object) -> None:
    """Reject quantization during loading if the adapter's initialization has to change the base weights first."""
    if lora is not None and lora.settings.changes_base and quantization is not None:
        raise UnsupportedError(
            f'the adapter {lora.directory} was initialized with "{lora.settings.init_lora_weights}", which changed the '
            "weights of its base before training: load the base without quantization"
        )


def _cast_floats(model: BaichuanForCausalLM, dtype: torch.dtype) -> None:
    """Cast the unquantized tensors to `dtype`; transformers loads them in their stored dtype."""
    for parameter in model.parameters():
        # Skip 4-bit codes: they have their own parameter class, and their storage dtype may be floating-point.
        if type(parameter) is torch.nn.Parameter and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, EightBitMatrix):
            module.dtype = dtype


def _resolve_devices(device: str | None, device_map: DeviceMap | None) -> DeviceMap:
    if device_map is None:
        return {"": _resolve_device(device)}
    if device is not None:
        raise UnsupportedError(f"device={device!r} and device_map={device_map!r} are both set: omit one of them")
    if isinstance(device_map, str):
        return device_map if device_map in AUTOMATIC_DEVICE_MAPS else {"": _resolve_device(device_map)}
    return {part: place if place == "disk" else _resolve_device(place) for part, place in device_map.items()}


def _resolve_device(name: str | int | torch.device | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    except RuntimeError as error:
        raise UnsupportedError(f'device {name!r} is unknown: use, for example, "cpu" or "cuda:0"') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError('this machine has no CUDA device: use "cpu"')
    return device
