"""`baichuan doctor`: find problems and suggest fixes."""

import os

import typer

from cli.checks import machine, service
from cli.checks.result import CheckResult
from cli.endpoint import get_home_directory
from cli.exit_codes import ExitCode
from cli.extras import find_missing_packages, format_install_command
from cli.options import JsonOption, KeyOption, UrlOption
from cli.output import print_json_list, print_text

STATUS_MARKS = {"ok": "ok  ", "note": "note", "failed": "FAIL"}


def doctor(url: UrlOption = None, key: KeyOption = None, *, as_json: JsonOption = False) -> None:
    """Check this machine and the service, and suggest a fix for each failure; exit 1 if any check fails."""
    checks = _run_all_checks(url, key)
    if as_json:
        print_json_list([check.as_json() for check in checks])
    else:
        for check in checks:
            print_text(f"{STATUS_MARKS[check.status]} {check.name:<12} {check.detail}")
            if check.remedy:
                print_text(f"     {'':<12} -> {check.remedy}")
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(ExitCode.FAILED)


def _run_all_checks(url: str | None, key: str | None) -> list[CheckResult]:
    checks = machine.check_installation()
    if get_home_directory().exists() or "DATABASE_URL" in os.environ:
        checks += _run_deployment_checks()
    return checks + service.check_service(url, key)


def _run_deployment_checks() -> list[CheckResult]:
    if find_missing_packages("service"):
        detail = "not checked: the service's packages are not installed"
        return [CheckResult("deployment", "note", detail, f"run {format_install_command('service')}")]
    from cli.checks import deployment  # noqa: PLC0415 - it imports the whole job domain

    return deployment.check_deployment()
