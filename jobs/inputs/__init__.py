"""Checks uploaded files according to their purpose before any job uses them, without loading a model or tokenizer."""

from jobs.inputs.batch import BatchSummary, check_batch, normalize_batch_line
from jobs.inputs.check import FileCheckResult, check_file
from jobs.inputs.duplicate_keys import DuplicateKeyFinder
from jobs.inputs.lines import InputError
from jobs.inputs.messages import normalize_messages
from jobs.inputs.parameters import (
    CHECKS_BY_PARAMETER,
    ENDPOINTS,
    LENGTH_LIMIT_PARAMETERS,
    Check,
    find_problem,
    make_neutral_check,
)
from jobs.inputs.prompts import check_prompts
from jobs.inputs.training import check_training_data

__all__ = [
    "CHECKS_BY_PARAMETER",
    "ENDPOINTS",
    "LENGTH_LIMIT_PARAMETERS",
    "BatchSummary",
    "Check",
    "DuplicateKeyFinder",
    "FileCheckResult",
    "InputError",
    "check_batch",
    "check_file",
    "check_prompts",
    "check_training_data",
    "find_problem",
    "make_neutral_check",
    "normalize_batch_line",
    "normalize_messages",
]
