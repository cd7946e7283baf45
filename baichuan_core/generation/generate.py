"""The generation run: requests in, one line of JSON a request out."""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from baichuan_core.checkpoint import load_model, load_tokenizer, make_directory, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH
from baichuan_core.errors import CheckpointError, PromptError
from baichuan_core.generation.batching import EncodedRequest
from baichuan_core.generation.engine import Completion, Engine
from baichuan_core.generation.options import GenerationDefaults, GenerationOptions, GenerationReport
from baichuan_core.generation.requests import GenerationRequest, encode_request
from baichuan_core.generation.sampling import request_seed
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress
from baichuan_core.tokenizer import BaichuanTokenizer, ChatFormat


def generate(
    checkpoint: Path | str,
    requests: Sequence[GenerationRequest],
    output: Path | str,
    options: GenerationOptions | None = None,
    *,
    adapter: Path | str | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> GenerationReport:
    """Answers every request and writes ``output``, a JSONL file with one line a request in their order.

    A line holds ``index``, ``id`` if the request has one, ``prompt`` or ``messages``, ``completion``,
    ``finish_reason``, ``prompt_tokens`` and ``completion_tokens``. The file appears whole or not at all.

    Args:
        checkpoint: Directory of a checkpoint, quantized ones included.
        requests: Prompts and chats.
        output: File to write; an older one is replaced.
        options: What differs from the checkpoint's own defaults.
        adapter: Directory of a LoRA adapter for this checkpoint.
        on_progress: Told about stages ``loading``, ``generating`` and ``writing``.

    Raises:
        PromptError: There is no request, or one cannot be answered; the message names it.
        CheckpointError: The checkpoint or adapter cannot be used, the model computes NaN, or ``output`` cannot be
            written.
        TokenizerError: The checkpoint has no tokenizer.
    """
    if not requests:
        raise PromptError("there is no request; give at least one prompt")
    checkpoint, output = Path(checkpoint), Path(output)
    if output.is_dir():
        raise CheckpointError(f"{output} is a directory: name the file to write, ending in .jsonl")
    make_directory(output.parent)
    on_progress(Progress(0.0, "loading"))
    config = read_config(checkpoint)
    defaults = GenerationDefaults.of(checkpoint)
    settings = defaults.complete(options or GenerationOptions())
    tokenizer = load_tokenizer(checkpoint)
    window = config.model_max_length or DEFAULT_CONTEXT_LENGTH
    encoded = _encode(tokenizer, requests, settings, window, ChatFormat.of(checkpoint, config))
    model = load_model(checkpoint, dtype=settings.dtype, device=settings.device, adapter=adapter)
    engine = Engine(model, tokenizer, settings, _end_token_ids(tokenizer, defaults))
    started = time.monotonic()
    completions = engine.run(encoded, on_progress)
    seconds = time.monotonic() - started
    on_progress(Progress(1.0, "writing"))
    _write(output, requests, completions)
    return GenerationReport(
        requests=len(requests),
        prompt_tokens=sum(one.prompt_tokens for one in completions),
        completion_tokens=sum(one.completion_tokens for one in completions),
        seconds=seconds,
    )


def _encode(
    tokenizer: BaichuanTokenizer,
    requests: Sequence[GenerationRequest],
    settings: GenerationOptions,
    window: int,
    chat_format: ChatFormat,
) -> list[EncodedRequest]:
    max_new_tokens = settings.max_new_tokens or 1
    seen: Counter[tuple[int, ...]] = Counter()
    encoded = []
    for index, request in enumerate(requests):
        ids = encode_request(
            tokenizer,
            request,
            number=index + 1,
            window=window,
            max_new_tokens=max_new_tokens,
            chat_format=chat_format,
        )
        seed = request_seed(settings.seed, ids, seen[tuple(ids)])
        seen[tuple(ids)] += 1
        encoded.append(EncodedRequest(index, ids, min(max_new_tokens, window - len(ids)), seed))
    return encoded


def _end_token_ids(tokenizer: BaichuanTokenizer, defaults: GenerationDefaults) -> frozenset[int]:
    ids = tokenizer.eos_token_id if defaults.eos_token_id is None else defaults.eos_token_id
    return frozenset(ids if isinstance(ids, list) else [ids])


def _write(output: Path, requests: Sequence[GenerationRequest], completions: Sequence[Completion]) -> None:
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            for index, (request, completion) in enumerate(zip(requests, completions, strict=True)):
                file.write(json.dumps(_line(index, request, completion), ensure_ascii=False) + "\n")
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)


def _line(index: int, request: GenerationRequest, completion: Completion) -> dict[str, Any]:
    line: dict[str, Any] = {"index": index}
    if request.id is not None:
        line["id"] = request.id
    if request.messages is not None:
        line["messages"] = list(request.messages)
    else:
        line["prompt"] = request.prompt
    return line | {
        "completion": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
    }
