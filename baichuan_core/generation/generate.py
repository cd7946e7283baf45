"""The generation run: requests in, one line of JSON a completion out."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from baichuan_core.checkpoint import ModelKeeper, make_directory
from baichuan_core.errors import CheckpointError, PromptError
from baichuan_core.generation.completion_file import PartialFile, write_completions
from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.outputs import Completion
from baichuan_core.generation.generator import TextGenerator
from baichuan_core.generation.logprobs import openai_logprobs
from baichuan_core.generation.meter import Meter
from baichuan_core.generation.options import GenerationOptions, GenerationReport
from baichuan_core.generation.requests import GenerationRequest
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress
from baichuan_core.tokenizer import BaichuanTokenizer

SAMPLE_BYTES = 65536  # of a weight file, to tell it by
SAMPLES = 64  # so that every layer of a file of some gigabytes has one


def generate(  # noqa: PLR0913 - each is a separate input or output of a run
    checkpoint: Path | str,
    requests: Sequence[GenerationRequest],
    output: Path | str,
    options: GenerationOptions | None = None,
    *,
    adapter: Path | str | None = None,
    partial: Path | str | None = None,
    resume_from: Path | str | None = None,
    models: ModelKeeper | None = None,
    on_progress: ProgressCallback = ignore_progress,
) -> GenerationReport:
    """Answers every request and writes ``output``, a JSONL file with one line a completion in their order.

    A line holds ``index``, ``sample``, ``id`` if the request has one, ``prompt`` or ``messages``, ``completion``,
    ``finish_reason``, ``prompt_tokens``, ``completion_tokens``, and ``logprobs`` if asked for. The file appears whole
    or not at all. Until then finished lines stand in ``partial``, and the same call again, with the same checkpoint,
    requests and options, takes them from there.

    Args:
        checkpoint: Directory of a checkpoint, quantized ones included.
        requests: Prompts and chats.
        output: File to write; an older one is replaced.
        options: What differs from the checkpoint's own defaults.
        adapter: Directory of a LoRA adapter for this checkpoint.
        partial: Where finished lines are kept; beside ``output``, with ``.partial`` at the end of its name, if not
            given. It is removed when ``output`` is there.
        resume_from: The partial file of an earlier run, if it is another than ``partial``; lines of other requests or
            options are not taken.
        models: Keeps the model loaded for later operations, and may have it already.
        on_progress: Told about stages ``loading``, ``generating`` and ``writing``.

    Raises:
        PromptError: There is no request, or one cannot be answered; the message names it.
        CheckpointError: The checkpoint or adapter cannot be used, the model computes NaN, ``output`` cannot be
            written, or another run is writing it.
        TokenizerError: The checkpoint has no tokenizer.
        UnsupportedError: The engine, dtype or device does not exist here.
    """
    if not requests:
        raise PromptError("there is no request; give at least one prompt")
    output = Path(output)
    if output.is_dir():
        raise CheckpointError(f"{output} is a directory: name the file to write, ending in .jsonl")
    make_directory(output.parent)
    partial = output.with_name(f"{output.name}.partial") if partial is None else Path(partial)
    on_progress(Progress(0.0, "loading"))
    with closing(TextGenerator(checkpoint, options, adapter=adapter, models=models)) as generator:
        encoded = generator.encode(requests)
        fingerprint = _fingerprint(generator, requests, encoded)
        with PartialFile.begin(partial, fingerprint, partial if resume_from is None else Path(resume_from)) as kept:
            resumed = len(kept.lines)
            wanted = [one for one in encoded if (one.index, one.sample) not in kept.lines]
            steps = generator.run(wanted)
            meter = Meter(wanted, on_progress)
            started = time.monotonic()
            for step in steps:
                for completion in step.completions:
                    line = _line(requests[completion.index], completion, generator.tokenizer)
                    kept.append((completion.index, completion.sample), line)
                meter.take(step)
            seconds = time.monotonic() - started
            on_progress(Progress(1.0, "writing"))
            write_completions(output, kept.lines)
            kept.remove()
        return GenerationReport(
            requests=len(requests),
            completions=len(kept.lines),
            resumed=resumed,
            prompt_tokens=sum(len(one.prompt_ids) for one in encoded if one.sample == 0),
            completion_tokens=sum(json.loads(line)["completion_tokens"] for line in kept.lines.values()),
            generated_tokens=meter.generated,
            seconds=seconds,
            engine=generator.choice.name,
            engine_reason=generator.choice.reason,
            chat_format=generator.chat_format.style if any(one.messages is not None for one in requests) else None,
        )


def find_unanswerable(
    checkpoint: Path | str,
    requests: Sequence[GenerationRequest],
    options: GenerationOptions | None = None,
    *,
    adapter: Path | str | None = None,
) -> dict[int, str]:
    """Find the requests that `generate` would raise a PromptError for, without loading the model.

    Returns:
        Why each of them cannot be answered, by its index.
    """
    generator = TextGenerator(checkpoint, options, adapter=adapter)
    found = {}
    for index, request in enumerate(requests):
        try:
            generator.encode([request])
        except PromptError as error:
            found[index] = str(error).removeprefix("request 1: ")
    return found


def _fingerprint(
    generator: TextGenerator, requests: Sequence[GenerationRequest], encoded: Sequence[EncodedRequest]
) -> str:
    """Tells a run by all that its lines depend on. Checkpoints are told by their files, not by where they lie."""
    setup = generator.setup
    digest = hashlib.sha256()
    for folder in filter(None, (setup.checkpoint, setup.adapter)):
        for path in sorted(folder.iterdir()):
            if path.is_file():
                digest.update(f"{path.name}:{path.stat().st_size}".encode())
                for piece in _samples(path):
                    digest.update(piece)
    asked = [(one.id, one.prompt, one.messages) for one in requests]  # lines have them; unlike texts may be like ids
    run = (generator.choice.name, setup.settings.dtype, sorted(setup.end_token_ids), asked, encoded)
    digest.update(repr(run).encode())
    return digest.hexdigest()


def _samples(path: Path) -> Iterator[bytes]:
    """Pieces of a file from its beginning to its end: weights that were trained in some layers only differ there."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for place in (*range(0, size, max(SAMPLE_BYTES, size // SAMPLES)), max(0, size - SAMPLE_BYTES)):
            file.seek(place)
            yield file.read(SAMPLE_BYTES)


def _line(request: GenerationRequest, completion: Completion, tokenizer: BaichuanTokenizer) -> str:
    line: dict[str, Any] = {"index": completion.index, "sample": completion.sample}
    if request.id is not None:
        line["id"] = request.id
    if request.messages is not None:
        line["messages"] = [{"role": one["role"], "content": one["content"]} for one in request.messages]
    else:
        line["prompt"] = request.prompt
    line |= {
        "completion": completion.text,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
    }
    if completion.logprobs is not None:
        line["logprobs"] = openai_logprobs(tokenizer, completion.logprobs)
    return json.dumps(line, ensure_ascii=False)
