"""`baichuan doctor`: find problems and suggest fixes."""

import os

import typer

from cli.checks import machine, service
from cli.checks.result import CheckResult
from cli.endpoint import home
from cli.exit_codes import ExitCode
from cli.extras import find_missing_packages, install_command
from cli.options import AsJson, Key, Url
from cli.output import emit_list, show

STATUS_MARKS = {"ok": "ok  ", "note": "note", "failed": "FAIL"}


def doctor(url: Url = None, key: Key = None, *, as_json: AsJson = False) -> None:
    """Check this machine and the service, and suggest a fix for each failure; exit 1 if any check fails."""
    checks = _run_all_checks(url, key)
    if as_json:
        emit_list([check.as_json() for check in checks])
    else:
        for check in checks:
            show(f"{STATUS_MARKS[check.status]} {check.name:<12} {check.detail}")
            if check.remedy:
                show(f"     {'':<12} -> {check.remedy}")
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(ExitCode.FAILED)


def _run_all_checks(url: str | None, key: str | None) -> list[CheckResult]:
    checks = machine.check_installation()
    if home().exists() or "DATABASE_URL" in os.environ:
        checks += _run_deployment_checks()
    return checks + service.check_service(url, key)


def _run_deployment_checks() -> list[CheckResult]:
    if find_missing_packages("service"):
        detail = "not checked: the service's packages are not installed"
        return [CheckResult("deployment", "note", detail, f"run {install_command('service')}")]
    from cli.checks import deployment  # noqa: PLC0415 - it imports the whole job domain

    return deployment.check_deployment()
