"""The generation run: requests in, one line of JSON a completion out."""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from baichuan_core.checkpoint import make_directory
from baichuan_core.errors import CheckpointError, PromptError
from baichuan_core.generation.completion_file import PartialFile, finished_lines, write_completions
from baichuan_core.generation.engines.contract import Completion, EncodedRequest
from baichuan_core.generation.generator import TextGenerator
from baichuan_core.generation.logprobs import openai_logprobs
from baichuan_core.generation.meter import Meter
from baichuan_core.generation.options import GenerationOptions, GenerationReport
from baichuan_core.generation.requests import GenerationRequest
from baichuan_core.progress import Progress, ProgressCallback, ignore_progress
from baichuan_core.tokenizer import BaichuanTokenizer

SAMPLE_BYTES = 65536  # of a weight file, to tell it by


def generate(
    checkpoint: Path | str,
    requests: Sequence[GenerationRequest],
    output: Path | str,
    options: GenerationOptions | None = None,
    *,
    adapter: Path | str | None = None,
    partial: Path | str | None = None,
    resume_from: Path | str | None = None,
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
        on_progress: Told about stages ``loading``, ``generating`` and ``writing``.

    Raises:
        PromptError: There is no request, or one cannot be answered; the message names it.
        CheckpointError: The checkpoint or adapter cannot be used, the model computes NaN, or ``output`` cannot be
            written.
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
    generator = TextGenerator(checkpoint, options, adapter=adapter)
    encoded = generator.encode(requests)
    fingerprint = _fingerprint(generator, encoded)
    lines = finished_lines(partial if resume_from is None else Path(resume_from), fingerprint)
    wanted = [one for one in encoded if (one.index, one.sample) not in lines]
    resumed = len(lines)
    if wanted:
        generator.load()
    meter = Meter(wanted, on_progress)
    with PartialFile.begin(partial, fingerprint, lines) as kept:
        started = time.monotonic()
        for step in generator.run(wanted) if wanted else ():
            for completion in step.completions:
                line = _line(requests[completion.index], completion, generator.tokenizer)
                kept.append(line)
                lines[completion.index, completion.sample] = line
            meter.take(step)
        seconds = time.monotonic() - started
    on_progress(Progress(1.0, "writing"))
    write_completions(output, lines)
    partial.unlink()
    return GenerationReport(
        requests=len(requests),
        completions=len(lines),
        resumed=resumed,
        prompt_tokens=sum(len(one.prompt_ids) for one in encoded if one.sample == 0),
        completion_tokens=sum(json.loads(line)["completion_tokens"] for line in lines.values()),
        generated_tokens=meter.generated,
        seconds=seconds,
        engine=generator.choice.name,
        engine_reason=generator.choice.reason,
    )


def _fingerprint(generator: TextGenerator, encoded: Sequence[EncodedRequest]) -> str:
    """Tells a run by all that its text depends on. Checkpoints are told by their files, not by where they lie."""
    setup = generator.setup
    digest = hashlib.sha256()
    for folder in filter(None, (setup.checkpoint, setup.adapter)):
        for path in sorted(folder.iterdir()):
            if path.is_file():
                digest.update(f"{path.name}:{path.stat().st_size}".encode())
                for piece in _samples(path):
                    digest.update(piece)
    digest.update(repr((generator.choice.name, setup.settings.dtype, sorted(setup.end_token_ids), encoded)).encode())
    return digest.hexdigest()


def _samples(path: Path) -> Iterator[bytes]:
    """Beginning, middle and end of a file: other weights of the same shapes differ there."""
    with path.open("rb") as file:
        for place in (0, path.stat().st_size // 2, max(0, path.stat().st_size - SAMPLE_BYTES)):
            file.seek(place)
            yield file.read(SAMPLE_BYTES)


def _line(request: GenerationRequest, completion: Completion, tokenizer: BaichuanTokenizer) -> str:
    line: dict[str, Any] = {"index": completion.index, "sample": completion.sample}
    if request.id is not None:
        line["id"] = request.id
    if request.messages is not None:
        line["messages"] = list(request.messages)
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
