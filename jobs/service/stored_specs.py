"""The specs of stored jobs, which another version of the service may have accepted."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jobs.errors import OutdatedSpecError
from jobs.records import JobDetails
from jobs.specs import STORED_SPEC_ADAPTER, StoredSpec

MAX_REPORTED_ERRORS = 5


def read_spec(job: JobDetails) -> StoredSpec:
    """Return the job's spec as this version understands it.

    Raises:
        OutdatedSpecError: this version does not accept the spec.
    """
    try:
        return STORED_SPEC_ADAPTER.validate_python(dict(job.spec))
    except ValidationError as error:
        errors = [(_get_field_path(each), each["msg"]) for each in error.errors(include_input=False, include_url=False)]
        shown = "; ".join(f"{field}: {message}" for field, message in errors[:MAX_REPORTED_ERRORS])
        message = (
            f"this version of the service does not accept the spec of job {job.id} ({shown}); "
            "submit a new job with these fields corrected"
        )
        raise OutdatedSpecError(message, param=errors[0][0]) from None


def _get_field_path(error: Mapping[str, Any]) -> str:
    """Return the path of the invalid field, without the union member; an error without a path concerns `kind`."""
    return ".".join(str(part) for part in error["loc"][1:]) or "kind"
