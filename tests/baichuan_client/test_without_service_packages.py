"""The client and the client commands work on a machine that has only the base dependencies."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from cli.extras import EXTRAS
from tests.baichuan_client.conftest import MODEL
from tests.cli.shell import Result, Shell

BLOCKED = sorted({"torch", *(package for packages in EXTRAS.values() for package in packages)})
# An entry of None makes the import of a package fail, and `find_spec` finds nothing, as if it were not installed.
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({BLOCKED})); "
COMMAND = "from cli.main import run; sys.exit(run())"
SCRIPT = """
from baichuan_client import AsyncClient, Client
with Client() as client:
    job = client.jobs.submit({"kind": "generate", "model": "%s", "prompts": ["x"]})
    print(client.jobs.get(job.id).cancel().state)
"""


def run(shell: Shell, program: str, *arguments: str, **environment: str) -> Result:
    """Run a program in a process that cannot import the packages of the service."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + program, *arguments],
        cwd=shell.directory,
        env=shell.variables(environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Result(done.returncode, done.stdout, done.stderr)


def test_the_import_and_a_script(service: Shell) -> None:
    endpoint = json.loads((service.directory / ".baichuan/client.json").read_text())
    variables = {"BAICHUAN_URL": endpoint["url"], "BAICHUAN_API_KEY": endpoint["api_key"]}
    done = run(service, SCRIPT % MODEL, **variables)
    assert (done.code, done.out) == (0, "cancelled\n"), done.err


def test_commands_that_only_use_http(service: Shell) -> None:
    assert run(service, COMMAND, "--help").code == 0
    made = run(service, COMMAND, "submit", "generate", "--model", MODEL, "--prompt", "x")
    assert made.code == 0, made.err
    shown = run(service, COMMAND, "show", made.out.strip(), "--json")
    assert shown.code == 0, shown.err
    assert json.loads(shown.out)["state"] == "queued"
    assert run(service, COMMAND, "cancel", made.out.strip()).code == 0


def test_doctor_checks_the_rest(service: Shell) -> None:
    done = run(service, COMMAND, "doctor", "--json")
    checks = {check["name"]: check["status"] for check in json.loads(done.out)["data"]}
    assert (checks["service"], checks["key"]) == ("ok", "ok")
    assert (checks["api"], checks["engine"], checks["deployment"]) == ("note", "note", "note")
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (("up",), "api,engine"),
        (("up", "--no-worker"), "api"),
        (("worker",), "engine"),
        (("dispatcher",), "service"),
        (("init",), "service"),
        (("finetune", "--model", ".", "--training-file", "x", "--output-model", "y"), "engine"),
    ],
)
def test_commands_that_start_processes_say_what_to_install(
    tmp_path: Path, arguments: tuple[str, ...], extras: str
) -> None:
    done = run(Shell(tmp_path), COMMAND, *arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: `baichuan {arguments[0]}` needs packages that are not installed: sqlalchemy, ")
    assert done.err.endswith(f"run `pip install 'baichuan-jobs[{extras}]'`\n")
    assert done.err.count("\n") == 1


def test_the_lists_of_packages_are_those_of_the_project() -> None:
    names = {module: found[0].lower() for module, found in packages_distributions().items()}
    for extra, packages in EXTRAS.items():
        declared = {line.partition(">")[0].partition("=")[0].partition("[")[0].lower() for line in requirements(extra)}
        assert {names.get(package, package).replace("_", "-") for package in packages} <= declared, extra


def requirements(extra: str) -> list[str]:
    """The requirements of an extra, and of those that it includes."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    found: list[str] = []
    for line in project["optional-dependencies"][extra]:
        found += requirements("service") if line == "baichuan-jobs[service]" else [line]
    return found
