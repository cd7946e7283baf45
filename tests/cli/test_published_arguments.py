"""Baichuan2's fine-tuning command line, given to `baichuan submit finetune`."""

import json

import pytest

from cli.exit_codes import ExitCode
from tests.cli.shell import Shell

CONVERSATIONS = [
    {"id": "1", "conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "您好"}]},
]
PUBLISHED_COMMAND = (
    "--hostfile=", "fine-tune.py", "--report_to", "none", "--data_path", "data/belle.json",
    "--model_name_or_path", "{model}", "--output_dir", "output", "--model_max_length", "512",
    "--num_train_epochs", "4", "--per_device_train_batch_size", "16", "--gradient_accumulation_steps", "1",
    "--save_strategy", "epoch", "--learning_rate", "2e-5", "--lr_scheduler_type", "constant",
    "--adam_beta1", "0.9", "--adam_beta2", "0.98", "--adam_epsilon", "1e-8", "--max_grad_norm", "1.0",
    "--weight_decay", "1e-4", "--warmup_ratio", "0.0", "--logging_steps", "1", "--gradient_checkpointing", "True",
    "--deepspeed", "ds_config.json", "--bf16", "True", "--tf32", "True",
)  # fmt: skip


def test_the_published_command_line_is_accepted_as_it_is(
    service: Shell, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(service.directory)
    (service.directory / "data").mkdir(exist_ok=True)
    (service.directory / "data" / "belle.json").write_text(json.dumps(CONVERSATIONS))
    config = service.directory / "ds_config.json"
    config.write_text('{"zero_optimization": {"stage": 3, "overlap_comm": true}, "gradient_clipping": 1.0}')
    command = ["finetune", *(part.replace("{model}", model) for part in PUBLISHED_COMMAND)]
    accepted = service("submit", *command, "--json")
    assert accepted.code == 0, accepted.err
    job = json.loads(accepted.out)
    expected = {
        "method": "full", "max_length": 512, "epochs": 4, "batch_size": 16, "save_strategy": "epoch",
        "learning_rate": 2e-5, "scheduler": "constant", "adam_beta2": 0.98, "adam_epsilon": 1e-8, "max_grad_norm": 1.0,
        "weight_decay": 1e-4, "gradient_checkpointing": True, "dtype": "bfloat16", "tf32": True,
    }  # fmt: skip
    assert expected.items() <= job["spec"].items()
    assert job["model"] == "output"
    adapter = json.loads(service("submit", *command, "--use_lora", "True", "--output_dir", "adapter", "--json").out)
    assert {"method": "lora", "lora_rank": 1, "lora_alpha": 32}.items() <= adapter["spec"].items()
    (service.directory / "data" / "more.json").write_text(json.dumps(CONVERSATIONS))
    more = service("submit", *command, "--data_path", "data/more.json=2", "--output_dir", "mixed", "--json")
    assert more.code == 0, more.err
    mixed = json.loads(more.out)["spec"]
    assert (mixed["training_file"], [each["weight"] for each in mixed["training_files"]]) == (None, [1.0, 2.0])
    config.write_text('{"zero_optimization": 3}')
    refused = service("submit", *command)
    assert (refused.code, "deepspeed.zero_optimization is 3" in refused.err) == (ExitCode.REFUSED, True)
    config.write_text("{")
    assert "ds_config.json is not JSON" in service("submit", *command).err
