"""Errors raised by the job domain, independent of HTTP.

DomainError
 ├── NotFoundError             the requested object does not exist in this project
 ├── InvalidRequestError       a field has a value that cannot be accepted
 │    ├── UnknownModelError
 │    ├── UnknownFileError
 │    ├── UnknownCursorError
 │    └── PathNotAllowedError
 ├── ConflictError             the object exists, but its state does not allow the operation
 │    ├── IllegalTransitionError
 │    ├── VersionConflictError
 │    ├── IdempotencyConflictError
 │    ├── InUseError
 │    ├── OutdatedSpecError
 │    └── NameTakenError
 ├── TooLargeError             more bytes than the service accepts
 ├── InsufficientStorageError  the artifact store has no room
 ├── RetryLaterError           the same request may succeed later
 │    ├── TooManyRequestsError
 │    └── NotReadyError
 ├── ServingFailedError        the job that should have answered has failed
 ├── OutcomeUnknownError       the database's reply to a commit was lost
 ├── StorageUnavailableError   the artifact store cannot be written to
 └── AuthenticationError
      └── PermissionDeniedError

`param` is the field at fault, as the client named it. Messages say what to change.
"""


class DomainError(Exception):
    """Base class for all errors that the job domain raises on purpose."""

    code = "error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class NotFoundError(DomainError):
    """The requested object does not exist in this project."""

    code = "not_found"


class InvalidRequestError(DomainError):
    """A field has a value that cannot be accepted."""

    code = "invalid_request"


class UnknownModelError(InvalidRequestError):
    """A spec names a model that is not registered."""

    code = "unknown_model"


class UnknownFileError(InvalidRequestError):
    """A spec names a file that was not uploaded."""

    code = "unknown_file"


class UnknownCursorError(InvalidRequestError):
    """A cursor names an item that the list does not contain."""

    code = "unknown_cursor"

    def __init__(self, after: str) -> None:
        super().__init__(f"the list contains no item {after!r}; start again without `after`", param="after")


class PathNotAllowedError(InvalidRequestError):
    """A path leads outside the directories that the operator allowed."""

    code = "path_not_allowed"


class ConflictError(DomainError):
    """The object exists, but its state does not allow the operation."""

    code = "conflict"


class IllegalTransitionError(ConflictError):
    """The state machine has no such transition from the current state."""

    code = "illegal_transition"


class VersionConflictError(ConflictError):
    """The job or file is not the version that the client expects."""

    code = "version_conflict"


class IdempotencyConflictError(ConflictError):
    """An Idempotency-Key was used before with a different request."""

    code = "idempotency_conflict"


class InUseError(ConflictError):
    """The object cannot be deleted: it is not final, or something uses it."""

    code = "in_use"


class OutdatedSpecError(ConflictError):
    """A job's spec was accepted by another version of the service and is invalid for this one."""

    code = "outdated_spec"


class NameTakenError(ConflictError):
    """A model with this name exists or is being created."""

    code = "name_taken"


class TooLargeError(DomainError):
    """The content is larger than the service accepts."""

    code = "too_large"


class InsufficientStorageError(DomainError):
    """The artifact store has no room for the content."""

    code = "insufficient_storage"


class RetryLaterError(DomainError):
    """The same request may succeed later.

    Attributes:
        seconds: How many seconds to wait before retrying.
    """

    code = "retry_later"

    def __init__(self, message: str, *, seconds: int, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.seconds = seconds


class TooManyRequestsError(RetryLaterError):
    """The project, the runner or the pool has reached its limit."""

    code = "too_many_requests"


class NotReadyError(RetryLaterError):
    """The data or model needed for the answer is not yet, or no longer, available."""

    code = "not_ready"


class ServingFailedError(DomainError):
    """The job that should have loaded the model and answered has failed; another job would fail as well."""

    code = "serving_failed"


class OutcomeUnknownError(DomainError):
    """The database's reply to a commit was lost: the request may or may not have taken effect."""

    code = "outcome_unknown"


class StorageUnavailableError(DomainError):
    """The artifact store cannot be written to."""

    code = "storage_unavailable"


class AuthenticationError(DomainError):
    """The API key is missing, unknown or revoked."""

    code = "invalid_api_key"


class PermissionDeniedError(AuthenticationError):
    """The API key is valid, but its role does not allow this."""

    code = "permission_denied"
