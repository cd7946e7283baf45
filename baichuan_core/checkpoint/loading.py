"""Loads models and tokenizers from checkpoint directories, with errors that say what to change."""

from copy import deepcopy
from pathlib import Path
from typing import Literal

import torch
from transformers import BitsAndBytesConfig, GenerationConfig
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from baichuan_core.config import BaichuanConfig
from baichuan_core.errors import CheckpointError, TokenizerError, UnsupportedError
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.model.eight_bit_ends import EightBitRows
from baichuan_core.model.quantization import (
    QuantizationMethod,
    quantization_settings,
    require_four_bit_shapes,
)
from baichuan_core.tokenizer import BaichuanTokenizer, read_generation_settings
from checkpoint_files import FileError, check_tokenizer_files
from checkpoint_files.layout import linear_layers

from .adapters import LoraAdapter
from .companions import read_config
from .reader import TensorReader
from .streaming import StreamingConfig
from .validation import check_tensors, is_quantized

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DeviceMap = str | dict[str, str | int | torch.device]
AUTOMATIC_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")


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
    """Load a checkpoint in eval mode, everything checked before the first weight is read.

    With `quantization`, each tensor goes from its file to its quantized form on its device before the next one is
    read, so that memory holds the quantized model and one weight.

    Args:
        checkpoint: Directory with `config.json` and safetensors or `.bin` weights; quantized ones need no flag.
        dtype: Dtype of the weights, "auto" for that of the checkpoint.
        device: Where the weights go, e.g. "cpu" or "cuda:0"; the first GPU, or else the CPU, if not given.
        device_map: accelerate's placement over several devices instead, e.g. "auto".
        adapter: A LoRA adapter directory that was made for this base; its layers are put into the model.
        quantization: Quantize on the way: "int8", "nf4" or "fp4" as `quantize` does, or settings of your own.
        quantize_head: Keep embedding and output head in 8 bits too, when quantizing on the way.

    Raises:
        CheckpointError: Missing or damaged files, tensors that do not fit the configuration.
        AdapterMismatchError: The adapter was made for another base.
        UnsupportedError: A dtype or a device that does not exist here, a quantization that is not known or
            comes on top of another one, or a layer without a 4-bit kernel on this device.
    """
    checkpoint, adapter = Path(checkpoint), None if adapter is None else Path(adapter)
    config, wanted = read_config(checkpoint), _dtype(dtype)
    settings = _settings(config, checkpoint, quantization, quantize_head)
    devices = _devices(device, device_map)
    with TensorReader(checkpoint) as reader:
        check_tensors(reader, config)
    _require_kernels(config, settings, devices)
    lora = None if adapter is None else LoraAdapter.read(adapter, checkpoint)
    _require_restorable(lora, quantization)
    config.quantize_head = quantize_head or config.quantize_head
    model = BaichuanForCausalLM.from_pretrained(
        checkpoint,
        config=config,  # of which other tools' leftovers are gone
        generation_config=_generation_config(checkpoint, config),
        dtype=wanted,
        # ZeRO-3 places the weights itself, in parts on all ranks.
        device_map=None if is_deepspeed_zero3_enabled() else devices,
        quantization_config=settings and StreamingConfig(settings),
        local_files_only=True,
    )
    if not isinstance(model, BaichuanForCausalLM):
        raise CheckpointError(f"{checkpoint} did not load as a Baichuan model")
    if isinstance(wanted, torch.dtype) and not is_deepspeed_zero3_enabled():
        _cast_floats(model, wanted)
    if lora is not None:
        lora.put_into(model)
    return model


def load_tokenizer(checkpoint: Path | str) -> BaichuanTokenizer:
    """The tokenizer of a checkpoint directory.

    Raises:
        TokenizerError: It is missing, cannot be read, or has more pieces than the model has embeddings.
        CheckpointError: `config.json` is missing or damaged.
    """
    checkpoint = Path(checkpoint)
    file = checkpoint / "tokenizer.model"
    if not file.is_file():
        raise TokenizerError(f"{file} is missing: copy tokenizer.model and tokenizer_config.json beside the weights")
    try:
        check_tokenizer_files(checkpoint)
        tokenizer = BaichuanTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except FileError as error:
        raise TokenizerError(str(error)) from error
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        raise TokenizerError(
            f"{file} or tokenizer_config.json beside it cannot be read ({error}): copy or download both again"
        ) from error
    if not isinstance(tokenizer, BaichuanTokenizer):
        raise TokenizerError(f"{checkpoint} holds another kind of tokenizer: use that of the Baichuan family")
    embeddings = read_config(checkpoint).vocab_size
    padding = tokenizer.pad_token
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= embeddings:
        # Fine-tuning tools add a token for padding alone and leave the model as it is. Padding is masked, so any id
        # the model has will do: that of the published tokenizers.
        _forget_token(tokenizer, padding)
        tokenizer.pad_token = tokenizer.unk_token
    if len(tokenizer) > embeddings:
        raise TokenizerError(
            f"{file} and added_tokens.json have {len(tokenizer)} pieces and the model {embeddings} embeddings: "
            "use the tokenizer that belongs to these weights"
        )
    return tokenizer


def _generation_config(checkpoint: Path, config: BaichuanConfig) -> GenerationConfig:
    """As transformers reads it, also from a file with a byte order mark or with whole numbers as floats."""
    if settings := read_generation_settings(checkpoint):
        return GenerationConfig.from_dict(settings)
    return GenerationConfig.from_model_config(config)


def _forget_token(tokenizer: BaichuanTokenizer, token: str) -> None:
    """Remove an added token, so that text that contains it is text."""
    token_id = tokenizer._added_tokens_encoder.pop(token)
    del tokenizer._added_tokens_decoder[token_id]
    tokenizer.tokens_trie = type(tokenizer.tokens_trie)()
    tokenizer._update_trie()
    tokenizer._update_total_vocab_size()


def _dtype(name: str) -> str | torch.dtype:
    if name not in ("auto", "float32", "bfloat16", "float16"):
        raise UnsupportedError(f'dtype {name!r} is not known: use "auto", "float32", "bfloat16" or "float16"')
    if name == "auto":
        return name
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _settings(
    config: BaichuanConfig,
    checkpoint: Path,
    quantization: QuantizationMethod | BitsAndBytesConfig | None,
    quantize_head: bool,
) -> BitsAndBytesConfig | None:
    if quantization is None:
        if quantize_head and not config.quantize_head:
            raise UnsupportedError(
                'quantize_head goes with a quantization of the blocks: give e.g. quantization="int8"'
            )
        return None
    if is_quantized(config):
        raise UnsupportedError(f"{checkpoint} is quantized already: load it without quantization=")
    if quantize_head and config.tie_word_embeddings:
        raise UnsupportedError(f"{checkpoint} uses its embedding as head: leave quantize_head out")
    if isinstance(quantization, BitsAndBytesConfig):
        return _of_the_blocks(quantization)
    return quantization_settings(quantization)


def _of_the_blocks(settings: BitsAndBytesConfig) -> BitsAndBytesConfig:
    """Settings of the caller, refused where they would not be heeded; the head stays what quantize_head makes it."""
    if not (settings.load_in_4bit or settings.load_in_8bit):
        raise UnsupportedError(
            "this BitsAndBytesConfig quantizes nothing: set load_in_4bit or load_in_8bit, or leave quantization out"
        )
    if settings.llm_int8_has_fp16_weight:
        raise UnsupportedError("llm_int8_has_fp16_weight keeps the weights as floats: leave it out")
    settings = deepcopy(settings)
    if settings.llm_int8_skip_modules is not None:  # transformers skips the head only where nothing is named
        settings.llm_int8_skip_modules = sorted({*settings.llm_int8_skip_modules, "lm_head"})
    return settings


def _require_kernels(config: BaichuanConfig, settings: BitsAndBytesConfig | None, devices: DeviceMap) -> None:
    """Refuse on a CPU what its 4-bit kernels would fail at in the first forward."""
    saved = config.quantization_config if is_quantized(config) else {}
    four_bits = settings.load_in_4bit if settings is not None else saved.get("load_in_4bit")
    places = set(devices.values()) if isinstance(devices, dict) else {"cuda" if torch.cuda.is_available() else "cpu"}
    if four_bits and any(torch.device(place).type == "cpu" for place in places if place != "disk"):
        require_four_bit_shapes(linear_layers(config))


def _require_restorable(lora: LoraAdapter | None, quantization: object) -> None:
    """Refuse to quantize a base on the way that the adapter's initialization has to change first."""
    if lora is not None and lora.settings.changes_base and quantization is not None:
        raise UnsupportedError(
            f'the adapter {lora.directory} was initialized by "{lora.settings.init_lora_weights}", which changed the '
            "weights of its base before training: leave quantization out"
        )


def _cast_floats(model: BaichuanForCausalLM, dtype: torch.dtype) -> None:
    """The tensors that are not quantized, to the dtype asked for: transformers leaves them as they are stored."""
    for parameter in model.parameters():
        # Codes of 4 bits have a class of their own, and may be stored as floats.
        if type(parameter) is torch.nn.Parameter and parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for module in model.modules():
        if isinstance(module, EightBitRows):
            module.dtype = dtype


def _devices(device: str | None, device_map: DeviceMap | None) -> DeviceMap:
    if device_map is None:
        return {"": _device(device)}
    if device is not None:
        raise UnsupportedError(f"device={device!r} and device_map={device_map!r} are both given: leave one out")
    if isinstance(device_map, str):
        return device_map if device_map in AUTOMATIC_MAPS else {"": _device(device_map)}
    return {part: place if place == "disk" else _device(place) for part, place in device_map.items()}


def _device(name: str | int | torch.device | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    except RuntimeError as error:
        raise UnsupportedError(f'device {name!r} is not known: use "cpu" or "cuda:0"') from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedError('there is no CUDA device here: use "cpu"')
    return device
