"""`baichuan estimate`: offline, for published models and for checkpoints on disk."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cli.exit_codes import ExitCode
from tests.cli.shell import Shell


def answers(shell: Shell, *arguments: str) -> Any:
    """The rows of a JSON answer."""
    done = shell("estimate", *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)["data"]


def test_the_published_table_is_printed_within_100_columns(shell: Shell) -> None:
    done = shell("estimate", "--memory", "24")
    lines = [line.rstrip() for line in done.out.splitlines()]
    assert done.code == 0
    assert max(map(len, lines)) <= 100
    weights = [line.split()[-7] for line in lines if line.startswith("generate")]
    assert weights == ["13.98", "7.95", "5.03", "4.07", "25.88", "14.15", "8.46", "7.26"]
    fits = [line.split()[-1] for line in lines if line.startswith("generate")]
    assert fits == ["yes"] * 4 + ["no"] + ["yes"] * 3
    assert sum(line.startswith("train full") for line in lines) == 2


def test_calibration_of_13b_fits_a_gpu_of_24_gb_and_that_of_7b_half_the_memory_of_a_laptop(shell: Shell) -> None:
    for model, memory in (("baichuan2-13b", 24e9), ("baichuan2-7b", 8e9)):
        rows = answers(shell, model, "--operation", "quantize", "--memory", str(memory / 2**30))
        calibration = {row["operation"]: row for row in rows}["calibrate"]
        assert calibration["fits"]
        # One of 32 or more blocks, twice and in float32, and no more of the model.
        assert calibration["weights"] < answers(shell, model, "--operation", "generate")[0]["weights"] / 8


def test_questions_narrow_the_answer(shell: Shell) -> None:
    quantized = ("--quantization", "nf4", "--quantize-head", "--batch-size", "4", "--tokens", "1024")
    (row,) = answers(shell, "baichuan2-7b", "--operation", "generate", *quantized, "--memory", "6")
    assert row["precision"] == {
        "dtype": "bfloat16",
        "quantization": "nf4",
        "double_quantization": True,
        "quantize_head": True,
    }
    assert (row["cache"], row["fits"]) == (2 * 32 * 4 * 1024 * 4096 * 2, False)
    assert row["total"] == row["weights"] + row["cache"] + row["activations"]
    training = ("--method", "lora", "--quantization", "nf4", "--lora-rank", "64")
    (low,) = answers(shell, "baichuan2-7b", *training)
    (high,) = answers(shell, "baichuan2-7b", *training, "--no-gradient-checkpointing")
    assert low["operation"] == "train lora"
    assert high["activations"] > 4 * low["activations"]


def test_a_checkpoint_is_described_in_its_own_format(shell: Shell) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 4}
    quantization = {"load_in_8bit": True}
    config = {**sizes, "vocab_size": 100, "torch_dtype": "float32", "quantization_config": quantization}
    (shell.directory / "config.json").write_text(json.dumps(config))
    (row,) = answers(shell, ".", "--operation", "generate")
    codes, scales = 2 * (4 * 64 * 64 + 3 * 64 * 192), 2 * 4 * (4 * 64 + 2 * 192 + 64)
    assert row["weights"] == codes + scales + 4 * (2 * 100 * 64 + 5 * 64)
    assert {row["operation"] for row in answers(shell, "config.json")} == {
        "generate",
        "evaluate",
        "train lora",
        "convert",
    }


def test_usage_errors_name_the_remedy(shell: Shell) -> None:
    for arguments, says in (
        (("nowhere",), "or one of baichuan-7b"),
        (("--quantize-head",), "requires --quantization"),
        (("--method", "full", "--operation", "generate"), "requires --operation finetune"),
    ):
        done = shell("estimate", *arguments)
        assert (done.code, done.out) == (ExitCode.USAGE, "")
        assert says in done.err
    (shell.directory / "config.json").write_text("{}")
    done = shell("estimate", ".")
    assert (done.code, done.err) == (
        ExitCode.FAILED,
        "error: config.json has no hidden_size: use the config.json of the published checkpoint\n",
    )


def test_no_heavy_library_is_loaded(tmp_path: Path) -> None:
    code = "import sys, cli.main; from typer.testing import CliRunner as R; R().invoke(cli.main.app, ['estimate'])"
    heavy = "print(sorted({'torch', 'transformers', 'sqlalchemy', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", f"{code}; {heavy}"], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
