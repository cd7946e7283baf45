"""Checks uploaded files according to their purpose before any job uses them, without loading a model or tokenizer."""

from jobs.inputs.batch import BatchSummary, check_batch
from jobs.inputs.check import FileCheckResult, check_file
from jobs.inputs.duplicate_keys import DuplicateKeyFinder
from jobs.inputs.lines import InputError
from jobs.inputs.parameters import ENDPOINTS, LENGTH_LIMIT_PARAMETERS, find_problem
from jobs.inputs.prompts import check_prompts
from jobs.inputs.training import check_training_data

__all__ = [
    "ENDPOINTS",
    "LENGTH_LIMIT_PARAMETERS",
    "BatchSummary",
    "DuplicateKeyFinder",
    "FileCheckResult",
    "InputError",
    "check_batch",
    "check_file",
    "check_prompts",
    "check_training_data",
    "find_problem",
]
