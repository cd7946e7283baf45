"""A generation run, which answers requests and writes one JSON line per completion."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from baichuan_core.checkpoint import ModelCache, make_directory
from baichuan_core.errors import CheckpointError, PromptError
from baichuan_core.generation.completion_file import PartialFile, write_completions
from baichuan_core.generation.engines.contract import EncodedRequest
from baichuan_core.generation.engines.outputs import Completion
from baichuan_core.generation.generator import TextGenerator
from baichuan_core.generation.logprobs import format_openai_logprobs
from baichuan_core.generation.meter import ProgressMeter
from baichuan_core.generation.options import GenerationOptions, GenerationReport
from baichuan_core.generation.requests import GenerationRequest
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress
from baichuan_core.tokenizer import BaichuanTokenizer

# Only sampled chunks of each file are hashed, because hashing whole weight files would take minutes.
CHUNK_BYTES = 65536
CHUNKS_PER_FILE = 64  # enough to sample every layer in a file of a few gigabytes


def generate(  # noqa: PLR0913 - each is a separate input or output of a run
    checkpoint: Path | str,
    requests: Sequence[GenerationRequest],
    output: Path | str,
    options: GenerationOptions | None = None,
    *,
    adapter: Path | str | None = None,
    partial: Path | str | None = None,
    resume_from: Path | str | None = None,
    models: ModelCache | None = None,
    on_progress: ProgressCallback = ignore_progress,
    alongside: Callable[[TextGenerator], AbstractContextManager[object]] | None = None,
) -> GenerationReport:
    """Answer every request and write `output`, a JSONL file with one line per completion, in request order.

    A line contains `index`, `sample`, `id` if the request has one, `prompt` or `messages`, `completion`,
    `finish_reason`, `prompt_tokens`, `completion_tokens`, and `logprobs` if requested. The file is written atomically
    at the end. Until then, `partial` contains the finished lines, and another call with the same checkpoint, requests
    and options resumes from them.

    Args:
        checkpoint: Directory of a checkpoint, which may be quantized.
        requests: Prompts and chats.
        output: File to write; an existing file is replaced.
        options: Options that override the checkpoint's defaults.
        adapter: Directory of a LoRA adapter for this checkpoint.
        partial: File for finished lines; by default the path of `output` with `.partial` appended. It is deleted once
            `output` is written.
        resume_from: The partial file of an earlier run, if it is not `partial`; it is ignored if that run had different
            requests or options.
        models: Keeps the model loaded for later operations, and may have loaded it already.
        on_progress: Called in the stages `loading`, `generating` and `writing`.
        alongside: Called with the loaded model; the context manager that it returns is entered before the first request
            runs and exited after the last one (see `TextGenerator.open_lane`). It is not called if all lines come from
            an earlier run.

    Raises:
        PromptError: There are no requests, or one of them cannot be answered; the message names it.
        CheckpointError: The checkpoint or adapter cannot be used, the model produces NaN, `output` cannot be
            written, or another run is writing it.
        TokenizerError: The checkpoint has no tokenizer.
        UnsupportedError: The engine, dtype or device is not available on this machine.
    """
    if not requests:
        raise PromptError("there are no requests; pass at least one prompt")
    output = Path(output)
    if output.is_dir():
        raise CheckpointError(f"{output} is a directory: pass the path of a file, such as {output / 'output.jsonl'}")
    make_directory(output.parent)
    partial = output.with_name(f"{output.name}.partial") if partial is None else Path(partial)
    on_progress(Progress(0.0, "loading"))
    with closing(TextGenerator(checkpoint, options, adapter=adapter, models=models)) as generator:
        encoded = generator.encode(requests)
        fingerprint = _compute_fingerprint(generator, requests, encoded)
        with PartialFile.open_for_run(
            partial, fingerprint, partial if resume_from is None else Path(resume_from)
        ) as kept:
            resumed = len(kept.lines)
            wanted = [one for one in encoded if (one.index, one.sample) not in kept.lines]
            steps = generator.run(wanted)
            meter = ProgressMeter(wanted, on_progress)
            started = time.monotonic()
            with alongside(generator) if alongside and wanted else nullcontext():
                for step in steps:
                    for completion in step.completions:
                        line = _format_line(requests[completion.index], completion, generator.tokenizer)
                        kept.append((completion.index, completion.sample), line)
                    meter.record_step(step)
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


def find_unanswerable_requests(
    checkpoint: Path | str,
    requests: Sequence[GenerationRequest],
    options: GenerationOptions | None = None,
    *,
    adapter: Path | str | None = None,
) -> dict[int, str]:
    """Find, without loading the model, the requests for which `generate` would raise a PromptError.

    Returns:
        A dictionary that maps the index of each such request to the reason why it cannot be answered.
    """
    generator = TextGenerator(checkpoint, options, adapter=adapter)
    found = {}
    for index, request in enumerate(requests):
        try:
            generator.encode([request])
        except PromptError as error:
            found[index] = str(error).removeprefix("request 1: ")
    return found


def _compute_fingerprint(
    generator: TextGenerator, requests: Sequence[GenerationRequest], encoded: Sequence[EncodedRequest]
) -> str:
    """Hash everything that the output lines of a run depend on. Checkpoints are identified by content, not by path."""
    setup = generator.setup
    digest = hashlib.sha256()
    for folder in filter(None, (setup.checkpoint, setup.adapter)):
        for path in sorted(folder.iterdir()):
            if path.is_file():
                digest.update(f"{path.name}:{path.stat().st_size}".encode())
                for chunk in _read_chunks(path):
                    digest.update(chunk)
    # Hash the original requests too: the output lines contain them, and different texts may encode to the same ids.
    originals = [(one.id, one.prompt, one.messages) for one in requests]
    run = (generator.choice.name, setup.settings.dtype, sorted(setup.end_token_ids), originals, encoded)
    digest.update(repr(run).encode())
    return digest.hexdigest()


def _read_chunks(path: Path) -> Iterator[bytes]:
    """Read chunks spread over the whole file, because two models may differ in only a few layers."""
    size = path.stat().st_size
    with path.open("rb") as file:
        for offset in (*range(0, size, max(CHUNK_BYTES, size // CHUNKS_PER_FILE)), max(0, size - CHUNK_BYTES)):
            file.seek(offset)
            yield file.read(CHUNK_BYTES)


def _format_line(request: GenerationRequest, completion: Completion, tokenizer: BaichuanTokenizer) -> str:
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
        line["logprobs"] = format_openai_logprobs(tokenizer, completion.logprobs)
    return json.dumps(line, ensure_ascii=False)
