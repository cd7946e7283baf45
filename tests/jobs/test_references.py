"""The models that a spec may refer to: rejections at submission, and none later, before the job runs."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from baichuan_core.progress import ignore_progress
from jobs.artifacts import open_store
from jobs.errors import DomainError, InvalidRequestError
from jobs.records import FileRecord, ModelRecord
from jobs.repository import files, models
from jobs.service import attempts
from jobs.service.claims import Claim
from jobs.service.references import resolve_models
from jobs.service.submission import Submission, SubmittedJob, submit
from jobs.specs import KINDS as ALL_KINDS
from jobs.specs import SPEC_ADAPTER, AnySpec
from tests.jobs.conftest import Deployment
from tests.jobs.pool import dispatch_to
from workers.preparation import prepare_context

FILE = "file-" + "0" * 26
KINDS: dict[str, dict[str, Any]] = {
    "generate": {"kind": "generate", "prompts": ["a"]},
    "quantize": {"kind": "quantize"},
    "merge": {"kind": "convert", "target": "merged"},
    "convert": {"kind": "convert", "target": "safetensors"},
    "finetune": {"kind": "finetune", "training_file": FILE},
    "evaluate": {"kind": "evaluate", "benchmark": "mmlu", "data_file": FILE},
    "preview": {"kind": "preview", "training_file": FILE},
    "serve": {"kind": "serve"},
}


@pytest.fixture
def pool(deployment: Deployment) -> Deployment:
    """A deployment with a model of each kind, besides `base`, and one file."""
    project, store = deployment.project_id, open_store(deployment.settings)

    def model(name: str, kind: str, base: str | None = None, details: dict[str, str] | None = None) -> ModelRecord:
        return ModelRecord(project, name, kind, "ready", base, None, None, f"models/{name}", details or {}, 1)

    with deployment.database.writing() as connection:
        for record in (
            model("plain", "checkpoint"),
            model("int8", "checkpoint", "plain", details={"quantization": "int8"}),
            model("lora", "adapter", "plain"),
            model("stray", "adapter"),
            model("orphan", "adapter", "deleted"),
            model("second", "adapter", "lora"),
            model("on-gguf", "adapter", "gguf"),
            model("early", "adapter", "unfinished"),
            model("gguf", "gguf", "plain"),
            model("llama", "llama", "plain"),
        ):
            assert models.add(connection, record)
            store.open_workspace(record.key or "")
        files.add_file(connection, FileRecord(FILE, project, "a.zip", "user_data", "files/a", 1, "0" * 64, 1, None))
    (store.open_workspace("files") / "a").touch()
    deployment.submit(output_model="unfinished")
    return deployment


NAMES = (
    "plain", "int8", "lora", "stray", "orphan", "second", "on-gguf", "early", "gguf", "llama", "unfinished", "missing"
)  # fmt: skip


def refuse(pool: Deployment, **fields: Any) -> DomainError:
    """Submit a spec that must be refused, and return why."""
    with pool.database.writing() as connection:
        (answer,) = submit(connection, [pool.submission(**fields)])
    assert isinstance(answer, DomainError), fields
    return answer


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"kind": "quantize", "model": "lora"}, "model", "'lora' is a LoRA adapter, .* such as its base 'plain'"),
        ({**KINDS["finetune"], "model": "lora"}, "model", "'lora' is a LoRA adapter"),
        ({**KINDS["convert"], "model": "lora"}, "model", "'lora' is a LoRA adapter"),
        ({**KINDS["convert"], "model": "lora", "target": "gguf"}, "model", "is a LoRA adapter"),
        ({**KINDS["merge"], "model": "plain"}, "adapter", "'plain' is not a LoRA adapter; name one as adapter"),
        ({**KINDS["merge"], "model": "plain", "adapter": "int8"}, "adapter", "'int8' is a whole checkpoint, not a"),
        ({**KINDS["generate"], "model": "plain", "adapter": "plain"}, "adapter", "is a whole checkpoint, not a LoRA"),
        ({**KINDS["generate"], "model": "plain", "adapter": "gguf"}, "adapter", "is a whole gguf, not a LoRA"),
        ({**KINDS["generate"], "model": "lora", "adapter": "lora"}, "adapter", "and adapter is given too"),
        ({**KINDS["generate"], "model": "stray"}, "model", "base of adapter 'stray' is unknown"),
        ({**KINDS["generate"], "model": "orphan"}, "model", "base of adapter 'orphan' is unknown"),
        ({**KINDS["generate"], "model": "second"}, "model", "base of adapter 'second' is unknown"),
        ({**KINDS["generate"], "model": "early"}, "model", "base of adapter 'early' is unknown"),
        ({**KINDS["generate"], "model": "gguf", "adapter": "lora"}, "adapter", "which does not support adapters"),
        ({**KINDS["generate"], "model": "gguf", "engine": "vllm"}, "engine", "the engine vllm cannot run"),
        ({**KINDS["generate"], "model": "gguf", "dtype": "float32"}, "dtype", "has its own dtype"),
        ({**KINDS["generate"], "model": "plain", "engine": "llama_cpp"}, "engine", "'plain' is not a GGUF file"),
        ({**KINDS["generate"], "model": "lora", "engine": "vllm"}, "engine", "has an adapter"),
        ({**KINDS["generate"], "model": "int8", "engine": "vllm"}, "engine", "is quantized"),
        ({**KINDS["evaluate"], "model": "plain", "compare_with": "lora"}, "compare_with", "is a LoRA adapter"),
        ({**KINDS["evaluate"], "model": "plain", "compare_with": "gguf"}, "compare_with", "is a GGUF file"),
        ({"kind": "quantize", "model": "int8"}, "model", "'int8' is quantized already"),
        ({**KINDS["finetune"], "model": "int8", "method": "full"}, "method", "cannot be trained in full"),
    ],
)
def test_models_that_do_not_fit_are_refused_at_submission(
    pool: Deployment, fields: dict[str, Any], param: str, message: str
) -> None:
    refused = refuse(pool, **fields)
    assert isinstance(refused, InvalidRequestError)
    assert refused.param == param
    with pytest.raises(InvalidRequestError, match=message):
        raise refused


@pytest.mark.parametrize(
    ("fields", "resolved"),
    [
        ({**KINDS["generate"], "model": "lora"}, {"model": "plain", "adapter": "lora"}),
        ({**KINDS["generate"], "model": "int8", "adapter": "lora"}, {"model": "int8", "adapter": "lora"}),
        ({**KINDS["generate"], "model": "gguf", "engine": "llama_cpp"}, {"model": "gguf"}),
        ({**KINDS["merge"], "model": "lora"}, {"model": "plain", "adapter": "lora"}),
        ({**KINDS["merge"], "model": "plain", "adapter": "lora"}, {"model": "plain", "adapter": "lora"}),
        (
            {**KINDS["evaluate"], "model": "lora", "compare_with": "int8"},
            {"model": "plain", "adapter": "lora", "compare_with": "int8"},
        ),
        ({**KINDS["finetune"], "model": "int8"}, {"model": "int8"}),
    ],
)
def test_models_that_fit_are_found_by_the_field_that_they_are_loaded_for(
    pool: Deployment, fields: dict[str, Any], resolved: dict[str, str]
) -> None:
    claim = claim_job(pool, pool.submit(**fields).id)
    found = resolve_models(claim.spec, claim.models, claim.bases)
    assert {field: model.id for field, model in found.items()} == resolved


def claim_job(pool: Deployment, job_id: str) -> Claim:
    """Take a queued job as a worker does."""
    with pool.database.writing() as connection:
        attempt = dispatch_to(connection, job_id, "w", pool.settings)
        assert attempt is not None
        claim = attempts.claim(connection, attempt, "w", pool.settings)
    assert isinstance(claim, Claim)
    return claim


def every_combination() -> Iterator[AnySpec]:
    """Specs of every kind with every kind of model in every field that takes one."""
    yield SPEC_ADAPTER.validate_python({"kind": "pull", "repository": "a/b"})
    variants = {
        "generate": [{"engine": engine} for engine in ("auto", "transformers", "vllm", "llama_cpp")],
        "serve": [{"engine": engine} for engine in ("auto", "transformers", "vllm", "llama_cpp")],
        "finetune": [{"method": method} for method in ("lora", "full")],
    }
    for name, kind in KINDS.items():
        takes_adapter = name in ("generate", "serve", "merge", "evaluate")
        adapters = (None, *NAMES) if takes_adapter else (None,)
        others = (None, "plain", "lora", "gguf", "llama", "missing") if name == "evaluate" else (None,)
        for model, adapter, other, variant in product(NAMES, adapters, others, variants.get(name, [{}])):
            chosen = {"adapter": adapter, "compare_with": other}
            yield SPEC_ADAPTER.validate_python(
                {**kind, "model": model, **variant, **{key: value for key, value in chosen.items() if value}}
            )


def test_every_accepted_combination_is_accepted_by_the_runner(pool: Deployment) -> None:
    specs = list(every_combination())
    with pool.database.writing() as connection:
        answers = submit(connection, [Submission(pool.project_id, spec) for spec in specs])
    accepted = [answer.job for answer in answers if isinstance(answer, SubmittedJob)]
    assert {job.kind for job in accepted} == set(ALL_KINDS)
    assert len(specs) - len(accepted) > 1000
    for job in accepted:
        prepare_context(
            claim_job(pool, job.id), open_store(pool.settings), pool.settings.allowed_model_roots, ignore_progress
        )
