"""Checks Python, packages and GPUs of this machine without heavy imports."""

import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from cli.checks.result import Check
from cli.extras import EXTRAS, SERVICE, find_missing, install

OLDEST = (3, 11)
QUERY = "--query-gpu=name,memory.total,driver_version"


def check_installation() -> list[Check]:
    """Check everything that does not need a running service."""
    return [
        _python(),
        _package(),
        _extra("api", "serve the API"),
        _extra("engine", "run a worker"),
        _gpus(),
    ]


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < OLDEST:
        return Check("python", "failed", found, "install Python 3.11 or newer")
    return Check("python", "ok", found)


def _package() -> Check:
    try:
        return Check("package", "ok", f"baichuan-jobs {version('baichuan-jobs')}")
    except PackageNotFoundError:
        return Check("package", "failed", "baichuan-jobs is not installed", "run `pip install -e .` in the checkout")


def _extra(name: str, use: str) -> Check:
    if missing := find_missing(name):
        remedy = f"to {use} here: {install(name)}; clients do not need it"
        return Check(name, "note", f"not installed: {', '.join(missing)}", remedy)
    own = [package for package in EXTRAS[name] if package not in SERVICE]
    return Check(name, "ok", ", ".join(f"{package} {version(package)}" for package in own[:3]))


def _gpus() -> Check:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("gpu", "note", "no NVIDIA driver here: a worker on this machine will use the CPU")
    try:
        answer = subprocess.run(  # noqa: S603 - the driver's own program, fixed arguments
            [program, QUERY, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        return Check("gpu", "failed", f"nvidia-smi fails: {error}", "check the driver; `nvidia-smi` must list the GPUs")
    found = "; ".join(line.strip() for line in answer.stdout.splitlines() if line.strip())
    return Check("gpu", "ok", found) if found else Check("gpu", "note", "the NVIDIA driver finds no GPU")
