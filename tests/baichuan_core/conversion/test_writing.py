"""However tensors are split, read and copied, either every bit is written, with little memory, or nothing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from baichuan_core import CheckpointError, UnsupportedError, convert, load_model
from baichuan_core.checkpoint import TensorReader, parallel_writer, tensor_writer
from baichuan_core.checkpoint.planned_checkpoint import write_checkpoint
from baichuan_core.conversion.dense import plan_stored_tensor

MakeCheckpoint = Callable[..., Path]
MakeDeep = Callable[..., Path]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.int64, torch.bool]
FORMS = ["safetensors", "shards", "bin", "old bin"]


def write(directory: Path, tensors: dict[str, Tensor], form: str) -> None:
    """Write tensors in one of the formats of checkpoints."""
    directory.mkdir(exist_ok=True)
    if form == "shards":
        with tensor_writer(directory, list(tensors), 10_000) as writer:
            for name, tensor in tensors.items():
                writer.add(name, tensor)
    elif form == "safetensors":
        save_file(tensors, directory / "model.safetensors")
    else:
        zipped = form == "bin"
        torch.save(tensors, directory / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 40), max_size=3)), min_size=1, max_size=8
    ),
    form=st.sampled_from(FORMS),
    shard_bytes=st.sampled_from([1, 5_000, 10**6]),
    piece_bytes=st.sampled_from([1, 100, 2**22]),
    disk_bytes=st.sampled_from([1, 1000, 2**26]),
)
def test_any_tensors_are_written_in_any_partition(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[tuple[torch.dtype, list[int]]],
    form: str,
    shard_bytes: int,
    piece_bytes: int,
    disk_bytes: int,
) -> None:
    before, after = tmp_path_factory.mktemp("before"), tmp_path_factory.mktemp("after")
    tensors = {
        f"layer.{number}.weight": (torch.rand(shape) * 200 - 100).to(dtype)
        for number, (dtype, shape) in enumerate(shapes)
    }
    write(before, tensors, form)
    counted: list[int] = []
    with pytest.MonkeyPatch.context() as patch, TensorReader(before) as reader:
        patch.setattr(parallel_writer, "CHUNK_BYTES", piece_bytes)
        patch.setattr(parallel_writer, "FSYNC_INTERVAL_BYTES", disk_bytes)
        write_checkpoint(
            after, [plan_stored_tensor(reader, name) for name in reader.names], counted.append, shard_bytes
        )
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert sum(counted) == total
    found: dict[str, Tensor] = {}
    for file in sorted(after.glob("*.safetensors")):
        shard = load_file(file)
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0  # so that tensors are aligned in memory
        assert len(shard) == 1 or sum(tensor.nbytes for tensor in shard.values()) <= shard_bytes
        found |= shard
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)
    with TensorReader(after) as reader:
        assert set(reader.names) == set(tensors)


def test_shards_and_index_have_the_usual_names(tmp_path: Path) -> None:
    tensors = {"a": torch.rand(100), "b": torch.rand(100), "c": torch.rand(10)}
    write(tmp_path / "before", tensors, "safetensors")
    (tmp_path / "after").mkdir()
    with TensorReader(tmp_path / "before") as reader:
        write_checkpoint(tmp_path / "after", [plan_stored_tensor(reader, name) for name in "abc"], lambda _: None, 500)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = json.loads((tmp_path / "after" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {"a": shards[0], "b": shards[1], "c": shards[1]}
    assert index["metadata"]["total_size"] == 840


def test_views_and_transposed_tensors_of_bin_files_are_written_completely(tmp_path: Path) -> None:
    base = torch.rand(20, 30)
    tensors = {"whole": base, "rows": base[5:9], "columns": base[:, 3:7], "turned": base.T}
    write(tmp_path / "before", tensors, "bin")
    (tmp_path / "after").mkdir()
    with TensorReader(tmp_path / "before") as reader:
        write_checkpoint(
            tmp_path / "after", [plan_stored_tensor(reader, name) for name in reader.names], lambda _: None
        )
    written = load_file(tmp_path / "after" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())


def test_a_file_that_shrinks_while_it_is_read_is_reported(tmp_path: Path) -> None:
    write(tmp_path / "before", {"a": torch.rand(100, 100)}, "safetensors")
    file = tmp_path / "before" / "model.safetensors"
    with TensorReader(tmp_path / "before") as reader:
        rows = reader.make_row_reader("a")
        assert rows(3, 5).shape == (2, 100)
        os.truncate(file, file.stat().st_size - 100)
        assert rows(98, 99).shape == (1, 100)
        with pytest.raises(CheckpointError, match=r"model\.safetensors was truncated"):
            rows(99, 100)


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_every_format_becomes_safetensors_with_equal_bits_and_logits(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, form: str
) -> None:
    checkpoint = make_checkpoint(dtype=torch.bfloat16)
    tensors = load_file(checkpoint / "model.safetensors")
    expected = AutoModelForCausalLM.from_pretrained(checkpoint)(torch.tensor([[5, 6, 7]])).logits
    (checkpoint / "model.safetensors").unlink()
    write(checkpoint, tensors, form)
    report = convert(checkpoint, tmp_path / "converted", "safetensors")
    assert report.bytes_after == sum(tensor.nbytes for tensor in tensors.values())
    written = load_file(tmp_path / "converted" / "model.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in tensors.items())
    model = load_model(tmp_path / "converted", device="cpu")
    assert torch.equal(model(torch.tensor([[5, 6, 7]])).logits, expected)


def test_gguf_contains_the_same_weights(make_deep: MakeDeep, tmp_path: Path) -> None:
    """Queries and keys are permuted for llama.cpp: dimensions i and i + half of a head become neighbours."""
    checkpoint = make_deep("baichuan1-7b", 3)
    convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="f16")
    written = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "gguf" / "model.gguf").tensors}
    tensors = load_file(checkpoint / "model.safetensors")
    q, k, v = tensors["model.layers.1.self_attn.W_pack.weight"].half().view(3, 4, 2, 8, 64)
    for letter, tensor in {"q": q.transpose(1, 2), "k": k.transpose(1, 2), "v": v}.items():
        assert np.array_equal(written[f"blk.1.attn_{letter}.weight"], tensor.reshape(64, 64).numpy())
    for ours, theirs in {
        "lm_head": "output",
        "model.embed_tokens": "token_embd",
        "model.layers.2.self_attn.o_proj": "blk.2.attn_output",
        "model.layers.0.mlp.down_proj": "blk.0.ffn_down",
    }.items():
        assert np.array_equal(written[f"{theirs}.weight"], tensors[f"{ours}.weight"].half().numpy())
    assert np.array_equal(written["output_norm.weight"], tensors["model.norm.weight"].numpy())
    assert len(written) == 3 * 9 + 3


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("onnx", {}, "'onnx' is unknown: use one of baichuan1, safetensors"),
        ("gguf", {"gguf_type": "q6_k"}, "'q6_k' is unknown: use one of f32, f16"),
        ("safetensors", {"gguf_type": "f16"}, 'gguf_type requires the target "gguf"'),
        ("baichuan1", {"dtype": "float32"}, 'dtype requires the target "merged" or "dequantized"'),
        ("dequantized", {"dtype": "int8"}, "is not quantized|dtype 'int8' is unknown"),
        ("merged", {}, '"merged" requires an adapter'),
        ("llama", {"adapter": "somewhere"}, 'adapter requires the target "merged"'),
    ],
)
def test_incompatible_options_are_rejected(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, target: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message):
        convert(make_checkpoint(), tmp_path / "converted", target, **options)


def test_a_failure_in_any_thread_leaves_nothing(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    checkpoint = make_checkpoint()
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][7, 7] = float("nan")
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"blk.1.ffn_down.weight has values that are NaN"):
        convert(checkpoint, tmp_path / "gguf", "gguf", gguf_type="q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


MEASURE = """
import re, sys, threading, time
from pathlib import Path
import torch
import baichuan_core
from baichuan_core import convert
import gguf, tokenizers, bitsandbytes  # what the targets import counts as interpreter

torch.set_num_threads(2)

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

root, cases = Path(sys.argv[1]), sys.argv[2:]
convert(root / "small", root / "warm", "gguf", gguf_type="q8_0")
before, highest, running = anonymous(), 0, True

def watch():
    global highest
    while running:
        highest = max(highest, anonymous())
        time.sleep(0.002)

thread = threading.Thread(target=watch)
thread.start()
for number, case in enumerate(cases):
    source, target, *gguf_type = case.split(":")
    convert(root / source, root / f"out-{number}", target, **({"gguf_type": gguf_type[0]} if gguf_type else {}))
    print(case, (highest - before) / 2**20, file=sys.stderr)
running = False
thread.join()
print(highest - before)
"""


@pytest.mark.alone
def test_memory_stays_far_below_twice_the_largest_tensor(make_deep: MakeDeep, tmp_path: Path) -> None:
    fields = {"hidden_size": 256, "intermediate_size": 512, "vocab_size": 2**16, "norm_head": True}
    make_deep("baichuan1-7b", 2).rename(tmp_path / "small")
    large = make_deep("baichuan2-7b", 2, **fields)
    large.rename(tmp_path / "large")
    tensors = load_file(tmp_path / "large" / "model.safetensors")
    largest = max(tensor.nbytes for tensor in tensors.values())
    assert largest == 2**26
    (tmp_path / "bin").mkdir()
    for name in ("config.json", "tokenizer.model", "tokenizer_config.json"):
        (tmp_path / "bin" / name).write_bytes((tmp_path / "large" / name).read_bytes())
    torch.save(tensors, tmp_path / "bin" / "pytorch_model.bin")
    cases = ["bin:safetensors", "bin:baichuan1", "large:baichuan1", "large:llama", "large:gguf:q8_0", "bin:gguf:f16"]
    command = [sys.executable, "-c", MEASURE, str(tmp_path), *cases]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 2 * largest, ran.stderr
