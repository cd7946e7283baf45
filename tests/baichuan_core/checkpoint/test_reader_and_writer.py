"""Tensors are read as they were written, and errors of damaged files contain a remedy."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from baichuan_core import CheckpointError
from baichuan_core.checkpoint import TensorReader, check_tensors, read_config, tensor_writer

MakeCheckpoint = Callable[..., Path]
SHARDED = "baichuan2-7b-sharded-bin-inv_freq"


@pytest.fixture
def sharded(golden_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(golden_root / "checkpoints" / SHARDED, tmp_path / "sharded"))


def write(directory: Path, tensors: dict[str, Tensor], shard_bytes: int) -> None:
    directory.mkdir()
    with tensor_writer(directory, list(tensors), shard_bytes) as writer:
        for name, tensor in tensors.items():
            writer.add(name, tensor)


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.uint8, torch.int64, torch.bool]


@given(
    shapes=st.lists(
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=8
    ),
    shard_bytes=st.sampled_from([1, 64, 10**6]),
)
def test_any_tensors_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[torch.dtype, list[int]]], shard_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("written") / "checkpoint"
    tensors = {
        f"layer.{number}.weight": (torch.rand(shape) * 200 - 100).to(dtype)
        for number, (dtype, shape) in enumerate(shapes)
    }
    write(directory, tensors, shard_bytes)
    with TensorReader(directory) as reader:
        assert set(reader.names) == set(tensors)
        for name, expected in tensors.items():
            found = reader.read(name)
            assert (found.dtype, reader.shape(name)) == (expected.dtype, tuple(expected.shape))
            assert torch.equal(found, expected)


def test_other_programs_read_what_is_written(tmp_path: Path) -> None:
    tensors = {"odd": torch.arange(3, dtype=torch.uint8), "even": torch.rand(4, 6), "one": torch.tensor(2.0)}
    write(tmp_path / "checkpoint", tensors, 10**6)
    loaded = load_file(tmp_path / "checkpoint" / "model.safetensors")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_shards_and_index_have_the_usual_names(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint", {"a": torch.rand(100), "b": torch.rand(100), "c": torch.rand(10)}, 500)
    files = sorted(path.name for path in (tmp_path / "checkpoint").iterdir())
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert files == [*shards, "model.safetensors.index.json"]
    index = json.loads((tmp_path / "checkpoint" / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {"a": shards[0], "b": shards[1], "c": shards[1]}
    assert index["metadata"]["total_size"] == 840


def test_sharded_bin_is_read_without_its_rotation_buffers(sharded: Path) -> None:
    with TensorReader(sharded) as reader:
        check_tensors(reader, read_config(sharded))
        assert not [name for name in reader.names if "inv_freq" in name]
        assert len(reader.files) == 3
        assert reader.read("lm_head.weight").shape == (64, 32)


def test_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model-00002-of-00003\.bin is missing: copy or download"):
        TensorReader(sharded)


def test_a_shard_without_a_tensor_that_the_index_lists_is_named(sharded: Path) -> None:
    shutil.copyfile(sharded / "pytorch_model-00003-of-00003.bin", sharded / "pytorch_model-00002-of-00003.bin")
    with pytest.raises(CheckpointError, match="lacks the tensor"):
        TensorReader(sharded)


@pytest.mark.parametrize("kept", [0, 10, 200, -100])
def test_truncated_safetensors_is_damaged(make_checkpoint: MakeCheckpoint, kept: int) -> None:
    file = make_checkpoint() / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged .*: copy or download it again"):
        TensorReader(file.parent)


@pytest.mark.parametrize("kept", [0, 10, 1000, -100])
def test_truncated_bin_is_damaged(sharded: Path, kept: int) -> None:
    file = sharded / "pytorch_model-00001-of-00003.bin"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"pytorch_model-00001-of-00003\.bin is damaged"):
        TensorReader(sharded)


class Stranger:
    """An object that no checkpoint should contain."""


def test_pickled_code_is_never_run(tmp_path: Path) -> None:
    torch.save({"weight": Stranger()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="contains objects other than tensors, which are never loaded"):
        TensorReader(tmp_path)


def test_values_that_are_not_tensors_are_rejected(tmp_path: Path) -> None:
    torch.save({"weight.quant_state": [1, 2]}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"weight\.quant_state, which is not a tensor"):
        TensorReader(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), {1: torch.ones(3)}], ids=["list", "tensor", "numbers"])
def test_files_without_tensors_by_name_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is not a mapping of names to tensors"):
        TensorReader(tmp_path)


def test_the_error_for_the_published_4_bit_format_names_the_remedy(golden_root: Path) -> None:
    with pytest.raises(CheckpointError, match=r"the published 4-bit format.*use the unquantized checkpoint"):
        TensorReader(golden_root / "checkpoints" / "baichuan2-7b-int4-imitation")


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_damaged_index_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json is not an index"):
        TensorReader(tmp_path)


def test_index_may_not_point_elsewhere(tmp_path: Path) -> None:
    index = {"weight_map": {"weight": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="points outside its directory"):
        TensorReader(tmp_path)


def test_a_directory_without_weights_is_not_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights"):
        TensorReader(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.norm.weight": None}, "lacks 1 tensors, the first of them model.norm.weight"),
        ({"model.layers.9.mlp.up_proj.weight": torch.ones(2)}, "1 tensors that no Baichuan model"),
        ({"lm_head.weight": torch.ones(3, 64)}, r"lm_head.weight .* has the shape \[3, 64\]"),
    ],
)
def test_tensors_that_do_not_fit_the_configuration(
    make_checkpoint: MakeCheckpoint, change: dict[str, Tensor | None], message: str
) -> None:
    checkpoint = make_checkpoint()
    tensors = {**load_file(checkpoint / "model.safetensors"), **change}
    save_file(
        {name: tensor for name, tensor in tensors.items() if tensor is not None}, checkpoint / "model.safetensors"
    )
    with TensorReader(checkpoint) as reader, pytest.raises(CheckpointError, match=message):
        check_tensors(reader, read_config(checkpoint))


def test_of_several_formats_the_one_that_transformers_loads_is_read(make_checkpoint: MakeCheckpoint) -> None:
    checkpoint = make_checkpoint()
    torch.save({"other": torch.ones(1)}, checkpoint / "pytorch_model.bin")
    write(checkpoint / "sharded", {"a": torch.ones(9), "b": torch.ones(9)}, 1)
    for file in (checkpoint / "sharded").iterdir():
        file.rename(checkpoint / file.name)
    AutoModelForCausalLM.from_pretrained(checkpoint)
    with TensorReader(checkpoint) as reader:
        assert [file.name for file in reader.files] == ["model.safetensors"]
