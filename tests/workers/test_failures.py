"""Failures that lead to another attempt, and their messages to the job's owner."""

import errno

import pytest
import torch

from baichuan_core.errors import (
    AdapterMismatchError,
    DatasetError,
    InsufficientMemoryError,
    InsufficientSpaceError,
    MemoryOccupiedError,
)
from jobs.errors import PathNotAllowedError
from workers import failures


@pytest.mark.parametrize(
    ("exception", "code", "permanent"),
    [
        (DatasetError("line 3 is not JSON"), "dataset", True),
        (AdapterMismatchError("made for another base"), "adapter_mismatch", True),
        (InsufficientSpaceError("needs 5 bytes, 3 are free"), "insufficient_storage", True),
        (InsufficientMemoryError("needs 5 bytes, the device has 3"), "insufficient_memory", True),
        (MemoryOccupiedError("needs 5 bytes, 3 of 8 are free"), "memory_occupied", False),
        (PathNotAllowedError("not below a root"), "path_not_allowed", True),
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", False),
        (MemoryError(), "out_of_memory", False),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out_of_memory", False),
        (OSError(errno.EIO, "Input/output error"), "io_error", False),
        (OSError(errno.ENOSPC, "No space left on device"), "insufficient_storage", False),
        (FileNotFoundError(errno.ENOENT, "gone"), "io_error", True),
        (ZeroDivisionError("division by zero"), "internal_error", True),
        (KeyboardInterrupt(), "internal_error", True),
    ],
)
def test_code_and_permanence(exception: BaseException, code: str, permanent: bool) -> None:
    failure = failures.make_failure(exception)
    assert (failure.code, failure.permanent) == (code, permanent)


def test_our_errors_keep_their_message_and_others_name_their_type() -> None:
    assert failures.make_failure(DatasetError("line 3 is not JSON")).message == "line 3 is not JSON"
    unknown = failures.make_failure(ZeroDivisionError("division by zero"))
    assert "ZeroDivisionError: division by zero" in unknown.message
    assert not unknown.expected


def test_a_runner_that_dies_may_be_tried_again() -> None:
    killed = failures.make_runner_exit_failure(-9)
    assert (killed.code, killed.permanent) == ("runner_killed", False)
    assert "SIGKILL" in killed.message
    assert failures.make_runner_exit_failure(3).code == "runner_died"


def test_a_message_fits_every_database_whatever_it_quotes() -> None:
    message = failures.make_failure(DatasetError("role '\0\ud800' " + "x" * 10_000)).to_job_error()["message"]
    assert message.startswith("role '\N{REPLACEMENT CHARACTER}?' ")
    assert len(message) == failures.MAX_MESSAGE_CHARACTERS
