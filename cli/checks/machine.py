"""Checks this machine's Python, packages and GPUs, without heavy imports."""

import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

from cli.checks.result import CheckResult
from cli.extras import EXTRAS, SERVICE_PACKAGES, find_missing_packages, format_install_command

MIN_PYTHON = (3, 11)
GPU_QUERY = "--query-gpu=name,memory.total,driver_version"


def check_installation() -> list[CheckResult]:
    """Check everything that does not need a running service."""
    return [
        _check_python(),
        _check_package(),
        _check_extra("api", "serve the API"),
        _check_extra("engine", "run a worker"),
        _check_gpus(),
    ]


def _check_python() -> CheckResult:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info[:2] < MIN_PYTHON:
        return CheckResult("python", "failed", found, "install Python 3.11 or newer")
    return CheckResult("python", "ok", found)


def _check_package() -> CheckResult:
    try:
        return CheckResult("package", "ok", f"baichuan-jobs {version('baichuan-jobs')}")
    except PackageNotFoundError:
        return CheckResult(
            "package", "failed", "baichuan-jobs is not installed", "run `pip install -e .` in the repository"
        )


def _check_extra(name: str, use: str) -> CheckResult:
    if missing := find_missing_packages(name):
        remedy = f"to {use} here: {format_install_command(name)}; clients do not need it"
        return CheckResult(name, "note", f"not installed: {', '.join(missing)}", remedy)
    own = [package for package in EXTRAS[name] if package not in SERVICE_PACKAGES]
    return CheckResult(name, "ok", ", ".join(f"{package} {version(package)}" for package in own[:3]))


def _check_gpus() -> CheckResult:
    program = shutil.which("nvidia-smi")
    if program is None:
        return CheckResult("gpu", "note", "no NVIDIA driver here: a worker on this machine will use the CPU")
    try:
        answer = subprocess.run(  # noqa: S603 - the driver's own program, fixed arguments
            [program, GPU_QUERY, "--format=csv,noheader"], capture_output=True, text=True, timeout=20, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        return CheckResult(
            "gpu", "failed", f"nvidia-smi failed: {error}", "check the driver; `nvidia-smi` must list GPUs"
        )
    found = "; ".join(line.strip() for line in answer.stdout.splitlines() if line.strip())
    return CheckResult("gpu", "ok", found) if found else CheckResult("gpu", "note", "the NVIDIA driver found no GPU")
