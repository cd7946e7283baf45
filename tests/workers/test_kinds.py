"""A job of each kind, from submission to its published result."""

import hashlib
import json
import shutil
from pathlib import Path

from tests.workers.deployment import Deployment, wait_for


def test_generate_answers_in_order_and_publishes_whole_files(service: Deployment) -> None:
    job_id = service.submit(kind="generate", model="tiny", prompts=["一", "hello"], max_new_tokens=4, temperature=0)
    job = service.wait(job_id)
    (artifact,) = service.artifacts(job_id).values()
    content = service.read(artifact)
    lines = [json.loads(line) for line in content.splitlines()]
    assert [line["prompt"] for line in lines] == ["一", "hello"]
    assert artifact.path == "completions.jsonl"
    assert artifact.sha256 == hashlib.sha256(content).hexdigest()
    assert job.result is not None
    assert job.result["requests"] == 2
    assert job.result["completion_tokens"] == sum(line["completion_tokens"] for line in lines)
    assert service.events(job_id, "progress")[-1].data["fraction"] == 1.0
    assert service.printed(job_id) == []  # no progress bars and no messages of libraries


def test_generate_takes_conversations_and_files(service: Deployment, tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    source.write_text('{"id": "a", "messages": [{"role": "user", "content": "你好"}]}\n', encoding="utf-8")
    uploaded = service.upload(source, "prompts")
    from_file = service.submit(kind="generate", model="tiny", input_file=uploaded.id, max_new_tokens=3, seed=1)
    talk = [[{"role": "user", "content": "你好"}]]
    inline = service.submit(kind="generate", model="tiny", conversations=talk, max_new_tokens=3, seed=1)
    answers = []
    for job_id in (from_file, inline):
        service.wait(job_id)
        answers.append(json.loads(service.read(service.artifacts(job_id)["completions.jsonl"])))
    assert answers[0]["id"] == "a"
    assert answers[0]["completion"] == answers[1]["completion"]


def test_quantize_and_convert_create_models_for_later_jobs(service: Deployment) -> None:
    quantized = service.submit(kind="quantize", model="tiny", method="nf4", quantize_head=True, output_model="tiny-nf4")
    converted = service.submit(kind="convert", model="tiny", target="baichuan1", output_model="tiny-1")
    result = service.wait(quantized).result
    service.wait(converted)
    assert result is not None
    assert "lm_head.weight" in result["relative_errors"]
    assert service.model("tiny-nf4").details["quantization"] == "nf4"
    assert "model/config.json" in service.artifacts(converted)
    for name in ("tiny-nf4", "tiny-1"):
        service.wait(service.submit(kind="generate", model=name, prompts=["hello"], max_new_tokens=2))


def test_convert_makes_models_for_other_programs_too(service: Deployment) -> None:
    jobs = {
        "llama": service.submit(kind="convert", model="tiny", target="llama", output_model="tiny-llama"),
        "gguf": service.submit(kind="convert", model="tiny", target="gguf", gguf_type="q8_0", output_model="tiny-gguf"),
    }
    for kind, job_id in jobs.items():
        job = service.wait(job_id)
        assert job.result is not None
        model = service.model(f"tiny-{kind}")
        assert (model.kind, model.base) == (kind, "tiny")
        assert model.details["bytes"] >= job.result["bytes_after"]
        assert service.events(job_id, "progress")[-1].data["fraction"] == 1.0
    assert "model/model.gguf" in service.artifacts(jobs["gguf"])
    assert {"model/tokenizer.json", "model/model.safetensors"} <= set(service.artifacts(jobs["llama"]))
    refused = service.wait(service.submit(kind="convert", model="tiny", target="dequantized"), "failed")
    assert refused.error is not None
    assert "is not quantized: use the checkpoint as it is" in refused.error["message"]


def test_quantize_reports_the_loss_of_quality(service: Deployment, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Some words of my own, 和一些中文。\n" * 20, encoding="utf-8")
    uploaded = service.upload(tmp_path / "mine.txt", "fine-tune")
    job_id = service.submit(kind="quantize", model="tiny", method="int8", quality_text_file=uploaded.id)
    job = service.wait(job_id)
    artifacts = service.artifacts(job_id)
    report = json.loads(service.read(artifacts["quality.json"]))
    assert service.read(artifacts["quality.png"]).startswith(b"\x89PNG")
    assert "model/model.safetensors" in artifacts
    assert job.result is not None
    unquantized, int8 = job.result["quality"]["models"]
    assert int8["weight_bytes"] < unquantized["weight_bytes"]
    assert 0 < int8["kl_divergence"] < 0.01
    assert report["models"][1]["kl_divergence"] == int8["kl_divergence"]
    assert report["models"][1]["relative_errors"] == job.result["relative_errors"]
    assert service.events(job_id, "progress")[-1].data["fraction"] == 1.0
    assert service.printed(job_id) == []
    (tmp_path / "short.txt").write_text("short", encoding="utf-8")
    short = service.upload(tmp_path / "short.txt", "fine-tune")
    refused = service.wait(service.submit(kind="quantize", model="tiny", quality_text_file=short.id), "failed")
    assert refused.error is not None
    assert "use natural-language text with at least 64 tokens" in refused.error["message"]
    silent = service.submit(kind="quantize", model="tiny", quality_report=False)
    assert service.wait(silent).result is not None
    assert "quality.json" not in service.artifacts(silent)


def test_an_adapter_is_used_by_its_own_name(service: Deployment, conversations: Path) -> None:
    uploaded = service.upload(conversations, "fine-tune")
    job_id = service.submit(
        kind="finetune",
        model="tiny",
        training_file=uploaded.id,
        method="lora",
        epochs=1,
        save_steps=1,
        max_length=64,
        output_model="tiny-lora",
    )
    job = service.wait(job_id)
    assert job.result is not None
    assert job.result["steps"] > 0
    series = service.read(service.artifacts(job_id)["training/series.jsonl"]).splitlines()
    assert service.logged_steps(job_id, "loss") == [json.loads(line)["step"] for line in series]
    adapter = service.model("tiny-lora")
    assert (adapter.kind, adapter.base) == ("adapter", "tiny")
    attempt = service.attempts(job_id)[0]
    checkpoints = service.settings.home / "artifacts" / "jobs" / job_id / attempt.id / "checkpoints"
    wait_for("the leader to delete the resume points", lambda: not checkpoints.exists())
    alone = service.submit(kind="generate", model="tiny-lora", prompts=["hello"], max_new_tokens=4, temperature=0)
    named = service.submit(
        kind="generate", model="tiny", adapter="tiny-lora", prompts=["hello"], max_new_tokens=4, temperature=0
    )
    texts = [service.read(service.artifacts(service.wait(job).id)["completions.jsonl"]) for job in (alone, named)]
    assert texts[0] == texts[1]
    merged = [
        service.submit(kind="convert", model="tiny-lora", target="merged", output_model="tiny-merged"),
        service.submit(kind="convert", model="tiny", adapter="tiny-lora", target="merged"),
    ]
    weights = [service.artifacts(service.wait(job).id)["model/model.safetensors"].sha256 for job in merged]
    assert weights[0] == weights[1]
    of_merged = service.submit(kind="generate", model="tiny-merged", prompts=["hello"], max_new_tokens=4, temperature=0)
    assert service.read(service.artifacts(service.wait(of_merged).id)["completions.jsonl"]) == texts[0]


def test_full_fine_tuning_makes_a_checkpoint(service: Deployment, conversations: Path) -> None:
    uploaded = service.upload(conversations, "fine-tune")
    job_id = service.submit(
        kind="finetune",
        model="tiny",
        training_file=uploaded.id,
        validation_file=uploaded.id,
        method="full",
        epochs=2,
        max_length=64,
        batch_size=4,
    )
    result = service.wait(job_id).result
    assert service.model(job_id).kind == "checkpoint"
    assert result is not None
    artifacts = service.artifacts(job_id)
    assert "training/training.png" in artifacts
    series = [json.loads(line) for line in service.read(artifacts["training/series.jsonl"]).splitlines()]
    losses = {entry["step"]: entry["eval_loss"] for entry in series if "eval_loss" in entry}
    assert losses[result["best_step"]] == result["best_eval_loss"] == min(losses.values())
    assert [entry["step"] for entry in series if "loss" in entry] == list(range(1, result["steps"] + 1))


def test_evaluate_asks_two_models_the_questions_of_an_archive(service: Deployment, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "ceval"), "zip", Path(__file__).parents[1] / "data/benchmarks/ceval")
    uploaded = service.upload(Path(archive), "user_data")
    service.wait(service.submit(kind="convert", model="tiny", target="baichuan1", output_model="tiny-without-normhead"))
    job_id = service.submit(
        kind="evaluate",
        model="tiny-without-normhead",
        benchmark="ceval",
        data_file=uploaded.id,
        compare_with="tiny",
        subjects=["logic", "computer_network"],
        limit=3,
    )
    result = service.wait(job_id).result
    assert result is not None
    assert (result["split"], result["shots"], result["model"]["total"]["questions"]) == ("val", 5, 6)
    assert (result["model"]["name"], result["compared_with"]["name"]) == ("tiny-without-normhead", "tiny")
    assert set(result["comparison"]["categories"]) == {"STEM", "Humanities"}
    assert result["comparison"]["total"]["same_letter"] == 1  # a conversion changes no answer
    artifacts = service.artifacts(job_id)
    assert sorted(artifacts) == ["answers.jsonl", "evaluation.json", "evaluation.md"]
    written = json.loads(service.read(artifacts["evaluation.json"]))
    assert set(written["model"]["subjects"]) == {"logic", "computer_network"}
    assert written["comparison"]["total"] == result["comparison"]["total"]
    assert len(service.read(artifacts["answers.jsonl"]).splitlines()) == 6
    assert service.events(job_id, "progress")[-1].data["fraction"] == 1.0


def test_evaluate_measures_perplexity_on_a_text(service: Deployment, conversations: Path) -> None:
    uploaded = service.upload(conversations, "user_data")
    job_id = service.submit(
        kind="evaluate", model="tiny", benchmark="perplexity", data_file=uploaded.id, compare_with="tiny", window=128
    )
    result = service.wait(job_id).result
    assert result is not None
    assert result["model"]["perplexity"] == result["compared_with"]["perplexity"] > 1
    assert (result["comparison"]["kl_divergence"], result["comparison"]["top_1_agreement"]) == (0, 1)
    assert sorted(service.artifacts(job_id)) == ["evaluation.json", "evaluation.md"]
