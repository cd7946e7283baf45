"""Machines that have only a network in common: network namespaces of this one, on one bridge."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True)
class Machine:
    """A network namespace: its name and its address on the bridge."""

    name: str
    address: str

    @property
    def prefix(self) -> tuple[str, ...]:
        """Return what to write before a command so that it runs there."""
        return ("ip", "netns", "exec", self.name)


@dataclass(frozen=True, slots=True)
class Network:
    """The machines, and the address at which they reach servers of the test."""

    address: str
    machines: tuple[Machine, ...]


@contextmanager
def connected_machines(count: int = 2) -> Iterator[Network]:
    """Make network namespaces and a bridge between them; skip the test on a system that does not permit it."""
    _require_namespaces()
    bridge, subnet = f"br{os.getpid()}", f"10.231.{os.getpid() % 256}"
    machines = tuple(Machine(f"{bridge}-{number}", f"{subnet}.{number}") for number in range(1, count + 1))
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("address", "add", f"{subnet}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for machine in machines:
            _connect(machine, bridge)
        yield Network(f"{subnet}.254", machines)
    finally:
        for machine in machines:
            subprocess.run(["ip", "netns", "delete", machine.name], capture_output=True, check=False)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True, check=False)


def _require_namespaces() -> None:
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command `ip` of iproute2")
    probe = f"probe{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"this machine cannot make network namespaces (root can): {made.stderr.strip()}")
    _ip("netns", "delete", probe)


def _connect(machine: Machine, bridge: str) -> None:
    """Make a namespace, and a cable from it to the bridge."""
    plug = f"{bridge}-{machine.address.rpartition('.')[2]}"
    _ip("netns", "add", machine.name)
    _ip("link", "add", plug, "type", "veth", "peer", "name", "eth0", "netns", machine.name)
    _ip("link", "set", plug, "master", bridge, "up")
    _ip("-n", machine.name, "address", "add", f"{machine.address}/24", "dev", "eth0")
    for device in ("eth0", "lo"):
        _ip("-n", machine.name, "link", "set", device, "up")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
