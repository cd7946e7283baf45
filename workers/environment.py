"""Environment variables for runners: an allow-list that keeps the service's secrets away from a job's code."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

ALLOWED_NAMES = re.compile(
    "PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|SSL_CERT_FILE|SSL_CERT_DIR"
    "|(LC|CUDA|NVIDIA|NCCL|GLOO|OMP|MKL|KMP|GOMP|OPENBLAS|ATEN|DNNL|PYTORCH|TRITON|BNB|BITSANDBYTES|VLLM|TOKENIZERS"
    "|TRANSFORMERS|HF|XDG|DS)_.*|PYTHON.*|TORCH.*|MPL.*"
)
HUB_TOKEN_VARIABLE = "HF_TOKEN"  # noqa: S105 - only a name; runners of some kinds get the value over their pipe
SECRET_NAMES = frozenset({HUB_TOKEN_VARIABLE, "HF_TOKEN_PATH", "HF_HUB_TOKEN"})
# Prefixes of the variables that hold object store credentials. A runner gets them over its pipe, never in its
# environment.
STORE_VARIABLE_PREFIXES = ("AWS_", "GOOGLE_", "AZURE_")


def build_runner_environment(environment: Mapping[str, str], more: Sequence[str] = ()) -> dict[str, str]:
    """Return the environment variables of this process that a runner may see.

    Args:
        environment: The environment of this process.
        more: Additional names that the operator allows; a name that ends in `*` is a prefix.
    """

    def is_allowed(name: str) -> bool:
        if any(fnmatchcase(name, pattern) for pattern in more):
            return True
        return bool(ALLOWED_NAMES.fullmatch(name)) and name not in SECRET_NAMES

    return {name: value for name, value in environment.items() if is_allowed(name)}


def select_store_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that hold the object store's credentials."""
    return {name: value for name, value in environment.items() if name.startswith(STORE_VARIABLE_PREFIXES)}


def get_hub_token(environment: Mapping[str, str]) -> str | None:
    """Return the token for private and gated repositories on a model hub; None if it is not set."""
    return environment.get(HUB_TOKEN_VARIABLE, "").strip() or None


def build_device_variables(uuids: Sequence[str]) -> dict[str, str]:
    """Return the variables that make exactly these devices visible to CUDA; an empty list hides all devices."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(uuids)}
