"""Calibration data for a quantization: plain text, or encoded conversations in the fine-tuning format."""

from baichuan_core.checkpoint import load_tokenizer, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.finetuning import encode_training_data, read_conversations
from baichuan_core.quantization import Calibration
from baichuan_core.text_file import read_text_file
from baichuan_core.tokenizer import choose_chat_format, read_generation_settings
from jobs.specs import QuantizeSpec
from workers.handlers.contract import HandlerContext

JSON_PREFIXES = ("[", "{")


def read_calibration(spec: QuantizeSpec, context: HandlerContext) -> Calibration:
    """Return the calibration data that a spec names, or the built-in text.

    Raises:
        DatasetError: The file cannot be read or contains malformed conversations.
    """
    file = context.files.get("calibration_file")
    if file is None:
        return Calibration(sequences=spec.calibration_sequences)
    if not read_text_file(file).lstrip().startswith(JSON_PREFIXES):
        return Calibration(text=file, sequences=spec.calibration_sequences)
    checkpoint = context.models["model"]
    config, tokenizer = read_config(checkpoint), load_tokenizer(checkpoint)
    data = encode_training_data(
        tokenizer,
        read_conversations(file),
        max_length=config.model_max_length or DEFAULT_CONTEXT_LENGTH,
        chat_format=choose_chat_format(tokenizer, config, read_generation_settings(checkpoint)),
    )
    token_ids = [example.input_ids for example in data.examples]
    return Calibration(token_ids=token_ids, sequences=spec.calibration_sequences)
