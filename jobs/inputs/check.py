"""Checks an uploaded file according to its purpose."""

from dataclasses import dataclass
from pathlib import Path

from jobs.inputs.batch import check_batch
from jobs.inputs.lines import InputError
from jobs.inputs.prompts import check_prompts
from jobs.inputs.training import check_training_data

CHECKS_BY_PURPOSE = {"batch": check_batch, "fine-tune": check_training_data, "prompts": check_prompts}


@dataclass(frozen=True, slots=True)
class FileCheckResult:
    """The status of a file, as in OpenAI's API: `processed`, or `error` with the line and the reason in `details`."""

    status: str = "processed"
    details: str | None = None


def check_file(path: Path, purpose: str) -> FileCheckResult:
    """Check that the content suits the purpose; purposes that are not in `CHECKS_BY_PURPOSE` accept any content."""
    check = CHECKS_BY_PURPOSE.get(purpose)
    if check is None:
        return FileCheckResult()
    try:
        check(path)
    except InputError as error:
        return FileCheckResult("error", str(error))
    return FileCheckResult()
