"""The errors that the engine raises.

BaichuanError
 ├── CheckpointError            a checkpoint directory is incomplete, damaged or of a different model family
 │    └── AdapterMismatchError  a LoRA adapter was made for a different base model
 ├── TokenizerError             the tokenizer is missing or does not match the model
 ├── DatasetError               training data or prompts are malformed; the message names the line
 ├── PromptError                a prompt cannot be answered (empty, or longer than the context)
 ├── UnsupportedError           the requested combination, for example of kernel, target and dtype, is not supported
 ├── TrainingDivergedError      the loss of a fine-tuning run is NaN or infinite
 ├── TrainingPausedError        the caller paused a fine-tuning run
 ├── RankFailedError            a process of a distributed fine-tuning run was killed or failed unexpectedly
 ├── HubError                   a hub lacks a repository, denies access, or sends content that does not match its hash
 │    └── HubUnreachableError   the hub is unreachable or overloaded
 ├── InsufficientSpaceError     the disk has too little space for the result
 └── InsufficientMemoryError    the device has less memory than the minimum that the operation needs
      └── MemoryOccupiedError   the device has enough memory, but others are using part of it

Each message says what is wrong and what to change. Retrying helps only if `may_pass` is true.
"""


class BaichuanError(Exception):
    """Base class of the engine's errors.

    Attributes:
        may_pass: Whether the same operation may succeed later without any changes.
    """

    may_pass = False


class CheckpointError(BaichuanError):
    """A checkpoint directory is incomplete, damaged or of a different model family."""


class AdapterMismatchError(CheckpointError):
    """A LoRA adapter was made for a different base model."""


class TokenizerError(BaichuanError):
    """The tokenizer is missing or does not match the model."""


class DatasetError(BaichuanError):
    """Training data or prompts are malformed; the message names the line."""


class PromptError(BaichuanError):
    """A prompt cannot be answered, because it is empty or longer than the context."""


class UnsupportedError(BaichuanError):
    """The requested combination, for example of kernel, target and dtype, is not supported."""


class TrainingDivergedError(BaichuanError):
    """The loss of a fine-tuning run is NaN or infinite."""


class TrainingPausedError(BaichuanError):
    """The caller paused a fine-tuning run, which has saved a resume point to continue from."""

    may_pass = True


class RankFailedError(BaichuanError):
    """A process of a distributed fine-tuning run was killed or failed; the run can continue from a resume point."""

    may_pass = True


class HubError(BaichuanError):
    """A model hub lacks a repository, denies access, or sends content that does not match its announced hash."""


class HubUnreachableError(HubError):
    """A model hub is unreachable or overloaded."""

    may_pass = True


class InsufficientSpaceError(BaichuanError):
    """The disk has too little space for the result."""


class InsufficientMemoryError(BaichuanError):
    """The device has less memory than the minimum that the operation needs."""


class MemoryOccupiedError(InsufficientMemoryError):
    """The device has enough memory for the operation, but other processes are using part of it."""

    may_pass = True
