"""A finetune spec accepts the names of Baichuan2's fine-tune.py; each takes effect, or is rejected with a remedy."""

from typing import Any

import pytest
from pydantic import ValidationError

from jobs.specs import FinetuneSpec, Resources

FILE, OTHER_FILE = "file-" + "0" * 26, "file-" + "1" * 26


def spec(**fields: Any) -> FinetuneSpec:
    given = {"kind": "finetune", "model": "m", "training_file": FILE}
    return FinetuneSpec.model_validate({**given, **fields})


@pytest.mark.parametrize(
    ("published", "ours"),
    [
        ({"model_max_length": 64}, {"max_length": 64}),
        ({"num_train_epochs": 4}, {"epochs": 4}),
        ({"per_device_train_batch_size": 16}, {"batch_size": 16}),
        ({"lr_scheduler_type": "cosine"}, {"scheduler": "cosine"}),
        ({"neftune": 5}, {"neftune_noise_alpha": 5}),
        ({"lora_r": 4}, {"lora_rank": 4}),
        ({"target_modules": "W_pack, o_proj"}, {"lora_target_modules": ["W_pack", "o_proj"]}),
        ({"optim": "paged_adamw"}, {"optimizer": "paged_adamw"}),
        ({"output_dir": "mine"}, {"output_model": "mine"}),
        ({"eval_data_path": OTHER_FILE}, {"validation_file": OTHER_FILE}),
        ({"bf16": True}, {"dtype": "bfloat16"}),
        ({"bf16": "False"}, {"dtype": "float32"}),
        ({"use_lora": True}, {"method": "lora", "lora_rank": 1}),
        ({"use_lora": True, "lora_r": 2}, {"method": "lora", "lora_rank": 2}),
        ({"use_lora": False}, {"method": "full"}),
        ({"report_to": "wandb,mlflow"}, {"report_to": ["wandb", "mlflow"]}),
        ({"report_to": ["mlflow"]}, {"report_to": ["mlflow"]}),
        ({"report_to": "none", "hostfile": "", "deepspeed": ""}, {"strategy": "auto", "deepspeed": None}),
        ({"deepspeed": "zero3-offload"}, {"strategy": "zero3-offload", "deepspeed": None}),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, {"deepspeed": {"zero_optimization": {"stage": 3}}}),
        (
            {"hostfile": "# two machines\na slots=2\n\nb.c  slots=2 # the second\n"},
            {"resources": Resources(nodes=2, devices=2, workers=["a", "b.c"]), "rank_count": 4},
        ),
        ({"preset": "baichuan2-published", "epochs": 1}, {"epochs": 1, "batch_size": 16, "adam_beta2": 0.98}),
        ({"preset": "recommended", "lora_r": 2}, {"lora_rank": 2, "scheduler": "cosine", "warmup_ratio": 0.03}),
    ],
)
def test_published_names_are_aliases(published: dict[str, Any], ours: dict[str, Any]) -> None:
    made = spec(**published)
    assert {name: getattr(made, name) for name in ours} == ours
    assert FinetuneSpec.model_validate(made.model_dump(mode="json")) == made


def test_several_files_have_weights() -> None:
    files = [{"file": FILE}, {"file": OTHER_FILE, "weight": 0.5}]
    made = spec(training_file=None, training_files=files)
    assert made.list_file_references() == {"training_files.0": FILE, "training_files.1": OTHER_FILE}
    assert [each.weight for each in made.training_files or ()] == [1.0, 0.5]


def test_data_path_alone_means_full_training_as_in_the_script() -> None:
    body = {"kind": "finetune", "model_name_or_path": "m", "data_path": FILE}
    made = FinetuneSpec.model_validate(body)
    assert (made.model, made.training_file, made.method) == ("m", FILE, "full")
    assert FinetuneSpec.model_validate({**body, "method": "lora"}).method == "lora"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": 1, "num_train_epochs": 2}, "num_train_epochs is another name for epochs, and both are given"),
        ({"use_lora": True, "method": "full"}, "use_lora is another name for method"),
        ({"use_lora": "yes"}, "use_lora is 'yes'; use true or false"),
        ({"report_to": "comet"}, "report_to is 'comet'; use 'none'"),
        ({"report_to": ["wandb", 3]}, "report_to is .*; use 'none'"),
        ({"training_files": [{"file": OTHER_FILE}]}, "set exactly one of training_file and training_files"),
        ({"training_file": None}, "set exactly one of training_file and training_files"),
        ({"training_file": None, "training_files": [{"file": FILE}, {"file": FILE}]}, f"has {FILE} twice"),
        ({"training_file": None, "training_files": [{"file": FILE, "weight": 0}]}, "greater than 0"),
        ({"hostfile": "hosts"}, "hostfile, line 1: 'hosts' does not have the form 'host slots=N'"),
        ({"hostfile": "a slots=1\na slots=1"}, "hostfile, line 2: a appears twice"),
        ({"hostfile": "a slots=1\nb slots=2"}, "the same number of slots, not a 1, b 2"),
        ({"hostfile": "a slots=1", "resources": {"nodes": 1}}, "hostfile and resources.nodes are both given"),
        (
            {"deepspeed": "zero9"},
            "deepspeed is 'zero9'; use zero2, zero3, zero3-offload, or a configuration as a JSON object",
        ),
        ({"deepspeed": {}, "strategy": "ddp"}, "deepspeed and strategy are both given"),
        ({"strategy": "ddp"}, "needs several devices"),
        ({"strategy": "single", "resources": {"devices": 2}}, "uses one device, but resources request 2"),
        ({"resources": {"nodes": 2, "devices": 0}}, "a job on several nodes needs at least one device per node"),
        ({"deepspeed": {"zero_optimization": 3}}, "deepspeed.zero_optimization is 3; it must be a JSON object"),
        ({"warmup_ratio": 0.1}, "scheduler 'constant' has no warm-up"),
        ({"warmup_ratio": 0.1, "warmup_steps": 2, "scheduler": "linear"}, "both given; leave one out"),
        ({"use_dora": True, "method": "full"}, "require method 'lora'"),
        ({"validation_file": OTHER_FILE, "validation_split": 0.1}, "both given; leave one out"),
        ({"eval_steps": 2}, "need a validation_file or validation_split"),
        ({"early_stopping_patience": 2}, "need a validation_file or validation_split"),
        ({"preset": "best"}, "preset"),
        ({"target_modules": "q_proj"}, "lora_target_modules"),
        ({"tf16": True}, "tf16"),
    ],
)
def test_fields_without_effect_are_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**fields)
