"""Headers of weight files equal what torch reads, without torch and without running a pickle."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from baichuan_core import CheckpointError, load_model
from checkpoint_files import FileError, check_directory
from checkpoint_files.headers import Header, read_headers
from tests.model_files import write_model_files

TENSORS = {
    "a": torch.zeros(3, 4, dtype=torch.bfloat16),
    "b": torch.zeros(5, dtype=torch.int8),
    "c": torch.zeros((), dtype=torch.float32),
    "d": torch.zeros(4, 6, dtype=torch.float16).T,
    "e": torch.nn.Parameter(torch.zeros(2, 2)),
}


@pytest.mark.parametrize("kind", ["safetensors", "archive", "legacy"])
def test_shapes_and_dtypes_are_those_that_torch_reads(tmp_path: Path, kind: str) -> None:
    if kind == "safetensors":
        file = tmp_path / "model.safetensors"
        save_file({name: tensor.detach().contiguous() for name, tensor in TENSORS.items()}, file)
    else:
        file = tmp_path / "pytorch_model.bin"
        torch.save(TENSORS, file, _use_new_zipfile_serialization=kind == "archive")
    headers = read_headers(file)
    assert headers.keys() == TENSORS.keys()
    for name, header in headers.items():
        assert isinstance(header, Header)
        assert (header.shape, header.is_float) == (tuple(TENSORS[name].shape), TENSORS[name].is_floating_point())


class Payload:
    """An object whose pickle runs code when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("ran",))


def test_no_code_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pytorch_model.bin"
    torch.save({"a": Payload()}, file)
    with pytest.raises(FileError, match=r"pytorch_model\.bin .* objects other than tensors, which are never .*print"):
        read_headers(file)
    file.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(FileError, match="never loaded"):
        read_headers(file)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{", bytes(8), b"\xff" * 20, b"\x02" + bytes(7) + b"{}more"])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damaged_files_are_named(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=rf"{name} is damaged"):
        read_headers(tmp_path / name)


@pytest.mark.parametrize(
    "about",
    [
        '"b"',
        "null",
        '{"dtype": "F32", "shape": [1]}',
        '{"dtype": 4, "shape": [1], "data_offsets": [0, 4]}',
        '{"dtype": "F32", "shape": 1, "data_offsets": [0, 4]}',
        '{"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}',
        '{"dtype": "F32", "shape": [1], "data_offsets": [4]}',
        '{"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}',
    ],
)
def test_an_entry_that_describes_no_tensor_is_named(tmp_path: Path, about: str) -> None:
    write_model_files(tmp_path)
    file = tmp_path / "model.safetensors"
    header = f'{{"a.weight": {about}}}'.encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(FileError) as caught:
        check_directory(tmp_path)
    reason = "its header has no valid dtype, shape and data_offsets for the tensor 'a.weight'"
    assert str(caught.value) == f"{file} is damaged ({reason}): copy or download it again"


@pytest.mark.parametrize("name", ["baichuan2-7b-int4-imitation", "baichuan2-7b-sharded-bin-inv_freq"])
def test_published_directories_pass(tmp_path: Path, name: str) -> None:
    golden = Path(__file__).parents[1] / "golden" / "checkpoints" / name
    folder = shutil.copytree(golden, tmp_path / name)
    check_directory(folder)


@pytest.mark.parametrize("key", ["state_dict", "module"])
def test_wrapped_tensors_are_named(tmp_path: Path, key: str) -> None:
    write_model_files(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({key: TENSORS, "epoch": 3}, tmp_path / "pytorch_model.bin")
    message = rf"pytorch_model\.bin has its tensors inside '{key}', as training scripts write them: save only that"
    with pytest.raises(FileError, match=message):
        check_directory(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path, device="cpu")
