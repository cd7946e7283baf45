"""Every error that the engine raises on purpose.

BaichuanError
 ├── CheckpointError            a checkpoint directory is incomplete, damaged or of another model family
 │    └── AdapterMismatchError  a LoRA adapter was made for another base model
 ├── TokenizerError             the tokenizer is missing or does not fit the model
 ├── DatasetError               training data or prompts are malformed; the message names the line
 ├── PromptError                one prompt cannot be answered (empty, too long for the window)
 ├── UnsupportedError           the combination asked for does not exist (a kernel, a target, a dtype)
 ├── TrainingDivergedError      the loss of a fine-tuning run is no number any more
 ├── RankFailedError            a process of a distributed fine-tuning run was killed or failed unexpectedly
 ├── HubError                   a hub does not have a repository, refuses it, or sends other bytes than it announced
 │    └── HubUnreachableError   it does not answer now, or is overloaded
 ├── InsufficientSpaceError     the disk cannot hold the result
 └── InsufficientMemoryError    the device cannot hold what the operation needs at least
      └── MemoryOccupiedError   it could, if others did not hold a part of its memory now

Each message says what is wrong and what to change. None of them goes away by trying again, unless `may_pass` is true.
"""


class BaichuanError(Exception):
    """Base of all errors the engine raises on purpose.

    Attributes:
        may_pass: Whether the same may succeed later, with nothing changed.
    """

    may_pass = False


class CheckpointError(BaichuanError):
    """A checkpoint directory is incomplete, damaged or of another model family."""


class AdapterMismatchError(CheckpointError):
    """A LoRA adapter was made for another base model."""


class TokenizerError(BaichuanError):
    """The tokenizer is missing or does not fit the model."""


class DatasetError(BaichuanError):
    """Training data or prompts are malformed; the message names the line."""


class PromptError(BaichuanError):
    """One prompt cannot be answered: it is empty or too long for the window."""


class UnsupportedError(BaichuanError):
    """The combination asked for does not exist: a kernel, a target, a dtype."""


class TrainingDivergedError(BaichuanError):
    """The loss of a fine-tuning run is NaN or infinite."""


class TrainingPausedError(BaichuanError):
    """The caller asked a fine-tuning run to pause; it has saved a resume point from which it continues."""

    may_pass = True


class RankFailedError(BaichuanError):
    """A process of a distributed fine-tuning run was killed or failed; the run continues from a resume point."""

    may_pass = True


class HubError(BaichuanError):
    """A model hub does not have a repository, refuses it, or sends other bytes than it announced."""


class HubUnreachableError(HubError):
    """A model hub does not answer now, or is overloaded."""

    may_pass = True


class InsufficientSpaceError(BaichuanError):
    """The disk cannot hold the result."""


class InsufficientMemoryError(BaichuanError):
    """The device cannot hold what the operation needs at least."""


class MemoryOccupiedError(InsufficientMemoryError):
    """The device could hold what the operation needs, but others hold a part of its memory now."""

    may_pass = True
