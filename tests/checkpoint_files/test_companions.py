"""A damaged tokenizer or generation_config.json is rejected with its file and field."""

from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint_files import FileError, check_directory, read_generation_config
from tests.model_files import write_model_files

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model_files(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda file: file.write_text(POINTER), "is a git-LFS pointer, not the file itself: run `git lfs pull`"),
        (lambda file: file.write_bytes(b""), "is empty: copy or download it again"),
        (lambda file: file.mkdir(), "cannot be read: Is a directory"),
    ],
)
def test_a_file_that_is_not_a_tokenizer_is_rejected(folder: Path, write: Callable[[Path], None], says: str) -> None:
    file = folder / "tokenizer.model"
    file.unlink()
    write(file)
    with pytest.raises(FileError, match=f"tokenizer.model {says}"):
        check_directory(folder)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (POINTER, "is a git-LFS pointer, not the file itself: run `git lfs pull`"),
        ('{"eos_token_id": "2"}', "eos_token_id is '2': set it to a token id"),
        ('{"eos_token_id": [[2]]}', "eos_token_id is .* a token id"),
        ('{"temperature": -1}', "temperature is -1: set it to a number from 0 to 100"),
        ('{"temperature": "0.3"}', "temperature is '0.3'"),
        ('{"max_new_tokens": 0}', "max_new_tokens is 0: set it to an integer from 1"),
        ('{"max_new_tokens": 2.5}', "max_new_tokens is 2.5"),
        ('{"top_k": 5.5}', "top_k is 5.5: set it to an integer"),
        ('{"top_p": 2}', "top_p is 2: set it to a number from 0 to 1"),
        ('{"do_sample": "false"}', "do_sample is 'false': set it to true or false"),
        ('{"user_token_id": "195"}', "user_token_id is '195'"),
    ],
)
def test_settings_that_no_generation_can_use_are_rejected(folder: Path, content: str, says: str) -> None:
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(FileError, match=f"generation_config.json .*{says}"):
        check_directory(folder)


def test_usual_settings_are_accepted(folder: Path) -> None:
    (folder / "generation_config.json").write_text(
        '{"top_k": 5.0, "temperature": 0, "eos_token_id": [2], "top_p": null}'
    )
    check_directory(folder)
    assert read_generation_config(folder) == {"top_k": 5, "temperature": 0, "eos_token_id": [2]}
