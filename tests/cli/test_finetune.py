"""`baichuan finetune`: its options, and one run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from baichuan_core import FinetuningOptions
from baichuan_core.finetuning import Distribution
from cli.commands import finetune
from cli.errors import CommandError
from cli.hostfile import find_own_rank, read_hostfile
from cli.local_finetuning import build_distribution_fields, build_finetune_arguments
from cli.main import app
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint

pytestmark = pytest.mark.timeout(1200)  # the run imports torch and more, on cores that may be busy
NOTHING: dict[str, Any] = {
    "strategy": None, "deepspeed": None, "hostfile": None, "nproc": None, "nodes": None, "node_rank": None,
    "master_addr": None, "master_port": None,
}  # fmt: skip
PUBLISHED = [
    "--report_to", "none", "--data_path", str(CONVERSATIONS), "--model_name_or_path", "{base}",
    "--output_dir", "{output}", "--model_max_length", "64", "--num_train_epochs", "1",
    "--per_device_train_batch_size", "4",
    "--gradient_accumulation_steps", "1", "--save_strategy", "epoch", "--learning_rate", "2e-5",
    "--lr_scheduler_type", "constant", "--adam_beta1", "0.9", "--adam_beta2", "0.98", "--adam_epsilon", "1e-8",
    "--max_grad_norm", "1.0", "--weight_decay", "1e-4", "--warmup_ratio", "0.0", "--logging_steps", "1",
    "--gradient_checkpointing", "True", "--bf16", "False", "--use_lora", "True",
]  # fmt: skip


def baichuan(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from cli.main import run; run()", "finetune", *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(
        command, cwd=root, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def split_conversations(folder: Path) -> list[str]:
    """Write the conversations into two files."""
    conversations = json.loads(CONVERSATIONS.read_text())
    for name, part in (("first.json", conversations[:5]), ("second.json", conversations[5:])):
        (folder / name).write_text(json.dumps(part))
    return [str(folder / "first.json"), str(folder / "second.json")]


@pytest.mark.slow
def test_the_published_command_line_runs_without_the_service(tmp_path: Path) -> None:
    base, output = make_tiny_checkpoint(tmp_path / "base"), tmp_path / "output"
    command = [part.format(base=base, output=output) for part in PUBLISHED]
    command[3:4] = split_conversations(tmp_path)
    done = baichuan(*command, "--strategy", "single")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["examples"], report["steps"], report["trained_parameters"]) == (16, 4, 1 * 2 * (128 + 384))
    assert "training step 4 steps 4 loss" in done.stderr
    assert (output / "adapter_model.safetensors").is_file()
    assert (tmp_path / "output-checkpoints" / "checkpoint-4").is_dir()
    again = baichuan(*command, "--strategy", "single")
    assert (again.returncode, "exists and is not an empty directory" in again.stderr) == (1, True)


@pytest.mark.long
def test_the_published_command_line_with_deepspeed_and_a_hostfile(tmp_path: Path) -> None:
    base, output = make_tiny_checkpoint(tmp_path / "base"), tmp_path / "output"
    command = [part.format(base=base, output=output) for part in PUBLISHED]
    config = {"zero_optimization": {"stage": 3, "overlap_comm": True}, "gradient_clipping": 1.0}
    (tmp_path / "ds_config.json").write_text(json.dumps(config))
    (tmp_path / "hostfile").write_text("127.0.0.1 slots=2\n")
    distributed = ["--deepspeed", str(tmp_path / "ds_config.json"), "--hostfile", str(tmp_path / "hostfile")]
    done = baichuan(*distributed, *command, "--records", str(tmp_path / "records"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 2
    plan = json.loads((tmp_path / "records" / "distribution.json").read_text())
    assert (plan["strategy"], plan["processes"]) == ("zero3", 2)


def test_every_option_reaches_the_library() -> None:
    task = build_finetune_arguments(
        {
            "kind": "finetune", "model": "/a b/Base", "training_file": "../data.json", "output_dir": "/out",
            "tf32": True, "lr_scheduler_type": "linear", "bf16": "False", "neftune": 5, "lora_r": 2, "seed": 7,
            "target_modules": "W_pack,o_proj", "optim": "adamw", "preset": "recommended",
        }
    )  # fmt: skip
    paths = {name: task[name] for name in ("checkpoint", "training_data", "validation_data", "output")}
    assert paths == {
        "checkpoint": "/a b/Base", "training_data": "../data.json", "validation_data": None, "output": "/out"
    }  # fmt: skip
    values = task["options"] | {name: tuple(task["options"][name]) for name in ("lora_target_modules", "report_to")}
    options = FinetuningOptions(**values)
    assert (options.tf32, options.seed, options.lora_rank, options.neftune_noise_alpha) == (True, 7, 2, 5)
    assert (options.lr_scheduler, options.warmup_ratio) == ("linear", 0.03)
    assert (options.lora_target_modules, options.dtype) == (("W_pack", "o_proj"), "float32")


@pytest.mark.parametrize(
    ("options", "data"),
    [
        (["--data_path", "a.json"], "a.json"),
        (["--training-file", "a=b.json"], "a=b.json"),
        (["--data_path", "a.json", "b.json"], {"a.json": 1, "b.json": 1}),
        (["--data_path", "a.json", "--data_path=b.json=3"], {"a.json": 1, "b.json": 3}),
        (
            ["--training-file", "a.json", "--training_file", "b.json", "c.json=0.5"],
            {"b.json": 1, "c.json": 0.5, "a.json": 1},
        ),
        (["--training-files", "a.json=2", "--training-files", "b.json"], {"a.json": 2, "b.json": 1}),
    ],
)
def test_several_files_with_weights_may_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], data: str | dict[str, float]
) -> None:
    tasks: list[dict[str, Any]] = []
    monkeypatch.setattr(finetune, "_exec_training", tasks.append)
    required = ["--model", str(tmp_path), "--output-model", "out"]
    done = CliRunner().invoke(app, ["finetune", *options, *required], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert tasks[0]["training_data"] == data


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"model": "m", "output_model": "o", "training_files": [{"file": "a"}, {"file": "a"}]},
            "a is given twice; pass it once, with a higher weight: a=2",
        ),
        (
            {"model": "m", "output_model": "o", "training_files": [{"file": "a", "weight": 0.0}]},
            "weight .*greater than 0",
        ),
        (
            {"model": "m", "output_model": "o", "training_file": "b", "training_files": [{"file": "a"}]},
            "set exactly one of training_file and training_files",
        ),
        ({"training_file": "d", "output_model": "o"}, "model Field required"),
        ({"model": "m", "training_file": "d"}, "--output-model is missing"),
        ({"model": "m", "training_file": "d", "output_model": "o", "batch_size": 0}, "batch_size .* greater than"),
        ({"model": "m", "training_file": "d", "output_model": "o", "report_to": "comet"}, "report_to is 'comet'"),
    ],
)
def test_wrong_options_are_named(body: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        build_finetune_arguments({"kind": "finetune", **body})


def test_a_hostfile_gives_machines_and_ranks(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text("# machines\nnode-0.invalid slots=4\n\n127.0.0.1 slots=4  # here\n")
    found = build_distribution_fields(**NOTHING | {"hostfile": str(path), "deepspeed": "zero3"})
    assert Distribution(**found) == Distribution(
        strategy="zero3", processes=4, nodes=2, node_rank=1, master_addr="node-0.invalid", master_port=29_500
    )
    path.write_text(f"{socket.gethostname()} slots=2\n")
    assert build_distribution_fields(**NOTHING | {"hostfile": str(path)}) == {
        "strategy": "auto", "processes": 2, "master_port": None
    }  # fmt: skip
    assert build_distribution_fields(**NOTHING | {"hostfile": "", "nproc": 3})["processes"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a slots=2\nb slots=3\n", "different numbers of slots"),
        ("a 2\n", ":1: invalid line 'a 2'; write HOST slots=PROCESSES"),
        ("a slots=2\na slots=2\n", ":2 repeats a"),
        ("# nothing\n", "lists no hosts"),
    ],
)
def test_a_wrong_hostfile_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "hostfile").write_text(text)
    with pytest.raises(CommandError, match=message):
        read_hostfile(tmp_path / "hostfile")


def test_this_machine_must_be_in_the_hostfile_once(tmp_path: Path) -> None:
    path = tmp_path / "hostfile"
    path.write_text("a.invalid slots=1\nb.invalid slots=1\n")
    with pytest.raises(CommandError, match=r"no line of .* this machine .*--node-rank"):
        find_own_rank(read_hostfile(path), path)
    path.write_text(f"127.0.0.1 slots=1\n{socket.gethostname()} slots=1\n")
    with pytest.raises(CommandError, match="several lines of"):
        find_own_rank(read_hostfile(path), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"deepspeed": "zero2", "strategy": "ddp"}, "--deepspeed and --strategy are both given"),
        ({"deepspeed": "missing.json"}, "cannot read the DeepSpeed configuration missing.json.*zero3-offload"),
        ({"nodes": 2, "node_rank": 1}, "--master-addr is required"),
        ({"nodes": 2, "master_addr": "a"}, "--node-rank is required"),
    ],
)
def test_a_wrong_distribution_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        build_distribution_fields(**NOTHING | change)
