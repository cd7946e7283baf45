"""Features of transformers, its Trainer and peft, with every family."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator, pipeline

from baichuan_core import BaichuanForCausalLM
from examples.tiny_checkpoint import make_tiny_checkpoint

Load = Callable[..., BaichuanForCausalLM]
Golden = dict[str, Tensor]
GREEDY: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 1}


@pytest.fixture(scope="module")
def model(family: Path, load: Load) -> BaichuanForCausalLM:
    return load(family)


def test_beams_do_not_depend_on_the_cache(model: BaichuanForCausalLM, golden: Golden) -> None:
    ids, mask = golden["pad_left.input_ids"], golden["pad_left.attention_mask"]
    settings = GREEDY | {"attention_mask": mask, "num_beams": 3, "num_return_sequences": 2}
    expected = model.generate(ids, use_cache=False, **settings)
    assert expected.shape[0] == 4
    assert torch.equal(model.generate(ids, **settings), expected)
    assert torch.equal(model.generate(ids, cache_implementation="static", **settings), expected)


def test_other_decoding_methods_give_the_greedy_tokens(model: BaichuanForCausalLM, golden: Golden) -> None:
    ids = golden["full.input_ids"][:1]
    expected = model.generate(ids, **GREEDY)
    assert torch.equal(model.generate(ids, prompt_lookup_num_tokens=3, **GREEDY), expected)
    assert torch.equal(model.generate(ids, prefill_chunk_size=5, **GREEDY), expected)
    embedded = model.get_input_embeddings()(ids)
    generated = model.generate(inputs_embeds=embedded, attention_mask=torch.ones_like(ids), **GREEDY)
    assert torch.equal(generated, expected[:, ids.shape[1] :])


def test_a_conversation_continues_with_its_cache(model: BaichuanForCausalLM, golden: Golden) -> None:
    first = model.generate(golden["full.input_ids"][:1], return_dict_in_generate=True, **GREEDY)
    longer = torch.cat((first.sequences, golden["full.input_ids"][1:, :3]), dim=1)
    again = model.generate(longer, past_key_values=first.past_key_values, **GREEDY)
    assert torch.equal(again, model.generate(longer, **GREEDY))


@torch.no_grad()
def test_optional_outputs_are_returned(model: BaichuanForCausalLM, golden: Golden) -> None:
    ids = golden["full.input_ids"]
    outputs = model(ids, output_hidden_states=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    chosen = model(ids, logits_to_keep=torch.tensor([1, 5])).logits
    torch.testing.assert_close(chosen, outputs.logits[:, [1, 5]])
    assert torch.equal(model(ids, return_dict=False)[0], outputs.logits)
    beyond = ids.repeat(1, 8)
    assert model(beyond).logits.isfinite().all()  # 192 tokens, more than the context length of 128


def test_trainer_of_transformers(family: Path, load: Load, golden: Golden, tmp_path: Path) -> None:
    model = load(family)
    row = golden["full.input_ids"][0].tolist()
    arguments = TrainingArguments(
        str(tmp_path / "run"), num_train_epochs=2, per_device_train_batch_size=2, gradient_accumulation_steps=2,
        activation_checkpointing=True, use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
        dataloader_pin_memory=False,
    )  # fmt: skip
    data: Any = [{"input_ids": row, "labels": row}] * 8
    trainer = Trainer(model=model, args=arguments, train_dataset=data, data_collator=default_data_collator)
    trainer.train()
    trainer.save_model(str(tmp_path / "trained"))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    ids = golden["full.input_ids"]
    torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
def test_an_adapter_on_the_head_too(family: Path, load: Load, golden: Golden) -> None:
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["W_pack", "lm_head"], r=4, init_lora_weights=False)
    adapted: Any = get_peft_model(load(family), config).eval()
    ids = golden["full.input_ids"]
    expected = adapted(ids).logits
    assert (expected - golden["full.logits"]).abs().max() > 0.01
    for change in (adapted.merge_adapter, adapted.unmerge_adapter, adapted.merge_and_unload):
        changed = change() or adapted
        torch.testing.assert_close(changed(ids).logits, expected, rtol=0, atol=1e-4)


def test_pipeline(tmp_path: Path) -> None:
    writer: Any = pipeline("text-generation", model=str(make_tiny_checkpoint(tmp_path)), device="cpu")
    assert type(writer.model) is BaichuanForCausalLM
    answers = writer(["a", "a longer prompt"], max_new_tokens=4, do_sample=False, batch_size=2)
    assert [answer[0]["generated_text"].startswith("a") for answer in answers] == [True, True]
