"""Checks an uploaded file according to its purpose."""

from dataclasses import dataclass
from pathlib import Path

from jobs.inputs.batch import check_batch
from jobs.inputs.lines import InputError
from jobs.inputs.prompts import check_prompts
from jobs.inputs.training import check_training_data


@dataclass(frozen=True, slots=True)
class FileCheckResult:
    """The status of a file, as in OpenAI's API: `processed`, or `error` with the line and the reason in `details`."""

    status: str = "processed"
    details: str | None = None


def check_file(path: Path, purpose: str, filename: str | None = None) -> FileCheckResult:
    """Check that the content suits the purpose; purposes without a check accept any content.

    Args:
        path: The file.
        purpose: Its purpose, as in OpenAI's API.
        filename: Its name, if it is stored under a different one.
    """
    try:
        if purpose == "fine-tune":
            check_training_data(path, filename)
        elif purpose == "batch":
            check_batch(path)
        elif purpose == "prompts":
            check_prompts(path)
    except InputError as error:
        return FileCheckResult("error", _escape_unprintable(str(error)))
    return FileCheckResult()


def _escape_unprintable(text: str) -> str:
    """Escape unprintable characters of a quoted key; the database cannot store NUL or an unpaired surrogate."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
