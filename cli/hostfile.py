"""Reads hostfiles in the format of DeepSpeed and MPI: one machine per line, `HOST slots=PROCESSES`."""

import re
import socket
from dataclasses import dataclass
from pathlib import Path

from cli.errors import CommandError
from cli.exit_codes import ExitCode

HOST_LINE_PATTERN = re.compile(r"^(?P<host>[^\s#=]+)\s+slots\s*=\s*(?P<slots>[0-9]+)\s*(#.*)?$")


@dataclass(frozen=True, slots=True)
class Host:
    """One machine and its number of processes."""

    name: str
    slots: int


def read_hostfile(path: Path) -> list[Host]:
    """Return the machines that a hostfile lists, in order; the order defines their ranks.

    Raises:
        CommandError: The file cannot be read, a line is malformed, or the machines have different numbers of slots.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"cannot read the hostfile {path}: {error}", ExitCode.USAGE) from error
    hosts: list[Host] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if (found := HOST_LINE_PATTERN.match(line.strip())) is None or not int(found["slots"]):
            raise CommandError(f"{path}:{number}: invalid line {line!r}; write HOST slots=PROCESSES", ExitCode.USAGE)
        if found["host"] in {host.name for host in hosts}:
            raise CommandError(f"{path}:{number} repeats {found['host']}; remove the line", ExitCode.USAGE)
        hosts.append(Host(found["host"], int(found["slots"])))
    if not hosts:
        raise CommandError(f"{path} lists no hosts; add lines of the form HOST slots=PROCESSES", ExitCode.USAGE)
    if len({host.slots for host in hosts}) > 1:
        raise CommandError(
            f"the machines in {path} have different numbers of slots; give them all the same number", ExitCode.USAGE
        )
    return hosts


def find_own_rank(hosts: list[Host], path: Path) -> int:
    """Return the index of this machine in a hostfile.

    Raises:
        CommandError: This machine is not listed, or is listed more than once.
    """
    own = [index for index, host in enumerate(hosts) if _is_this_machine(host.name)]
    if len(own) != 1:
        problem = f"several lines of {path} name" if own else f"no line of {path} names"
        raise CommandError(f"{problem} this machine ({socket.gethostname()}); pass --node-rank", ExitCode.USAGE)
    return own[0]


def _is_this_machine(host: str) -> bool:
    """Return whether a host name resolves to an address of this machine: only such an address can be bound."""
    if host == socket.gethostname():
        return True
    try:
        addresses = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, _, _, address in addresses:
        with socket.socket(family, kind) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False
