"""Runs the main job kinds on a tiny model and checks their results.

Usage: `make demo`, or `baichuan up -- python -m examples.sample_workflow`.

It creates a tiny Baichuan2 checkpoint with random weights, and then uses the service to generate (noise), fine-tune on
`examples/conversations.json`, generate (the taught answers), convert to the Baichuan1 format (equal logits), quantize
to NF4 and int8 and generate with both, and convert to GGUF. It exits with 0 only if every result is correct.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

import baichuan_core
from baichuan_client import Client, ClientError
from baichuan_client.jobs import Job
from examples.tiny_checkpoint import CONVERSATIONS, SAMPLE_TRAINING, make_tiny_checkpoint, taught_answers
from jobs.results import GenerateResult
from jobs.settings import Settings

LOGITS_TOLERANCE = 2e-5  # for float32; see tests/golden/README.md


class WrongResultError(Exception):
    """The result of a step is wrong."""


class Workflow:
    """The steps of the workflow; each raises WrongResultError if its result is wrong, or else returns a summary."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.questions, self.answers = zip(*taught_answers(), strict=True)
        self.tuned: Job

    def register(self) -> str:
        """Create the checkpoint in an allowed directory and register it as a model."""
        directory = Settings().allowed_model_roots[0] / "tiny-baichuan2"
        if not directory.exists():
            make_tiny_checkpoint(directory)
        return f"model {self.client.models.register('tiny-baichuan2', directory).id}"

    def noise(self) -> str:
        """Check that the untrained model knows none of the answers."""
        known = self._count_known("tiny-baichuan2")
        _require(known == 0, f"the untrained model answered {known} questions")
        return self._summarize(known)

    def finetune(self) -> str:
        """Fine-tune the model on the answers."""
        training_file = self.client.files.upload(CONVERSATIONS, "fine-tune").id
        self.tuned = self._run(
            kind="finetune", model="tiny-baichuan2", training_file=training_file, **_as_spec(SAMPLE_TRAINING)
        )
        return f"model {self.tuned.model}"

    def taught(self) -> str:
        """Check that the tuned model gives every taught answer, word for word."""
        known = self._count_known(self.tuned.model)
        _require(known == len(self.answers), self._summarize(known))
        return self._summarize(known)

    def convert(self) -> str:
        """Check that the converted model computes the same logits without a NormHead."""
        converted = self._run(kind="convert", target="baichuan1", model=self.tuned.model)
        with tempfile.TemporaryDirectory() as folder:
            before = _compute_logits(_download(self.tuned, Path(folder) / "before") / "model", norm_head=True)
            after = _compute_logits(_download(converted, Path(folder) / "after") / "model", norm_head=False)
        difference = float((before - after).abs().max())
        _require(difference <= LOGITS_TOLERANCE, f"logits differ by {difference}")
        return f"logits differ by at most {difference:.1e}"

    def nf4(self) -> str:
        """Check that a 4-bit model still knows most answers."""
        return self._quantize("nf4", at_least=len(self.answers) * 3 // 4)

    def calibrated(self) -> str:
        """Check that a calibrated 4-bit model still knows most answers."""
        calibration = {"calibration": True, "calibration_sequences": 4, "quality_report": False}
        return self._quantize("nf4", at_least=len(self.answers) * 3 // 4, **calibration)

    def int8(self) -> str:
        """Check that an 8-bit model still knows nearly all answers."""
        return self._quantize("int8", at_least=len(self.answers) - 1)

    def gguf(self) -> str:
        """Check that the GGUF model, run by llama.cpp on a CPU, gives every taught answer."""
        job = self._run(kind="convert", target="gguf", gguf_type="q8_0", model=self.tuned.model)
        known = self._count_known(job.model, engine="llama_cpp")
        _require(known == len(self.answers), self._summarize(known))
        return self._summarize(known)

    def _quantize(self, method: str, *, at_least: int, **options: Any) -> str:
        options |= {"method": method, "compute_dtype": "float32"}
        job = self._run(kind="quantize", model=self.tuned.model, **options)
        known = self._count_known(job.model)
        _require(known >= at_least, self._summarize(known))
        return self._summarize(known)

    def _count_known(self, model: str | None, *, engine: str = "transformers") -> int:
        job = self._run(kind="generate", model=model, conversations=self.questions, max_new_tokens=64, temperature=0)
        assert isinstance(job.result, GenerateResult)  # noqa: S101 - for the type checker
        _require(job.result.engine == engine, job.result.engine_reason)
        with tempfile.TemporaryDirectory() as folder:
            lines = job.download("completions.jsonl", folder).read_text(encoding="utf-8").splitlines()
        given = [json.loads(line)["completion"] for line in lines]
        return sum(mine == taught for mine, taught in zip(given, self.answers, strict=True))

    def _run(self, **spec: Any) -> Job:
        return self.client.jobs.submit(spec).wait()

    def _summarize(self, known: int) -> str:
        return f"{known} of {len(self.answers)} taught answers"


def _download(job: Job, folder: Path) -> Path:
    """Fetch all artifacts of a job into a new folder."""
    folder.mkdir()
    for artifact in job.artifacts():
        job.download(artifact.path, folder)
    return folder


def _as_spec(options: dict[str, Any]) -> dict[str, Any]:
    """Rename the engine's options to the fields of a job's spec."""
    renamed = {"lr_scheduler": "scheduler"}
    return {renamed.get(name, name): value for name, value in options.items()}


def _compute_logits(checkpoint: Path, *, norm_head: bool) -> torch.Tensor:
    model = baichuan_core.BaichuanForCausalLM.from_pretrained(checkpoint)
    _require(model.config.norm_head is norm_head, f"norm_head is {model.config.norm_head}")
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.arange(200, 248).reshape(2, 24)).logits  # [2, 24, vocab]
    return logits


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise WrongResultError(message)


def main() -> int:
    """Run all steps and return the exit code."""
    transformers_logging.disable_progress_bar()
    with Client() as client:
        workflow = Workflow(client)
        steps: list[Callable[[], str]] = [
            workflow.register,
            workflow.noise,
            workflow.finetune,
            workflow.taught,
            workflow.convert,
            workflow.nf4,
            workflow.calibrated,
            workflow.int8,
            workflow.gguf,
        ]
        for step in steps:
            start = time.monotonic()
            try:
                result, mark = step(), "ok  "
            except (WrongResultError, ClientError) as error:
                result, mark = str(error), "FAIL"
            print(f"{mark} {step.__name__:<10}{time.monotonic() - start:7.1f} s  {result}", flush=True)
            if mark == "FAIL":
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
