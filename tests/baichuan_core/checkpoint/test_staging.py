"""Results are written atomically."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from baichuan_core import CheckpointError, InsufficientSpaceError
from baichuan_core.checkpoint import require_space, staged_output

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from baichuan_core.checkpoint.staging import staged_output
with staged_output(Path(sys.argv[1])) as staging:
    (staging / "half").write_text("made")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_result_appears_when_the_block_ends(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "result"
    with staged_output(output) as staging:
        (staging / "file").write_text("whole")
        assert not output.exists()
    assert (output / "file").read_text() == "whole"
    assert list(output.parent.iterdir()) == [output]


def test_an_existing_empty_directory_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    with staged_output(tmp_path / "result") as staging:
        (staging / "file").write_text("whole")
    assert (tmp_path / "result" / "file").exists()


def test_error_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_output(tmp_path / "result") as staging:
            (staging / "half").write_text("made")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert not list(tmp_path.iterdir())


def test_an_existing_output_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(CheckpointError, match="is not an empty directory: choose a new"),
        staged_output(tmp_path),
    ):
        pass
    with pytest.raises(CheckpointError), staged_output(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_killed_run_leaves_no_result_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    output = tmp_path / "result"
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(output)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not output.exists()
    assert len(list(tmp_path.iterdir())) == 1
    with staged_output(output) as staging:
        (staging / "file").write_text("whole")
    assert list(tmp_path.iterdir()) == [output]


def test_two_runs_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    with staged_output(tmp_path / "result") as first:
        (first / "file").write_text("first")
        with pytest.raises(KeyError), staged_output(tmp_path / "result"):
            raise KeyError
    assert (tmp_path / "result" / "file").read_text() == "first"


def test_too_little_space_names_the_bytes(tmp_path: Path) -> None:
    with pytest.raises(InsufficientSpaceError, match=r"needs \d+ bytes, but .* has \d+ bytes free"):
        require_space(tmp_path / "not" / "yet", 10**18)
    require_space(tmp_path / "not" / "yet", 1)


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "result")
    with staged_output(tmp_path / "link") as staging:
        (staging / "file").write_text("whole")
    assert (tmp_path / "result" / "file").exists()


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    told = pytest.raises(CheckpointError, match=r"file cannot be created .*choose another directory")
    with told, staged_output(tmp_path / "file" / "result"):
        pass
