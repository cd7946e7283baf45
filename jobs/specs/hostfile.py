"""Translates a DeepSpeed hostfile into the devices and workers that a job requires."""

import re
from collections.abc import Mapping
from typing import Any

_LINE_PATTERN = re.compile(r"(?P<host>[A-Za-z0-9][A-Za-z0-9_.-]{0,63})\s+slots=(?P<slots>[1-9][0-9]{0,2})")


def read_hostfile(text: str) -> Mapping[str, Any]:
    """Translate lines of the form "host slots=N" into `resources`; a host is the name of a worker.

    Empty lines and comments that begin with "#" are skipped.

    Raises:
        ValueError: A line has a different form, a host appears twice, or hosts have different numbers of slots.
    """
    hosts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        content = line.split("#", 1)[0].strip()
        if not content:
            continue
        found = _LINE_PATTERN.fullmatch(content)
        if found is None:
            raise ValueError(f"hostfile, line {number}: {content!r} does not have the form 'host slots=N'")
        if found["host"] in hosts:
            raise ValueError(f"hostfile, line {number}: {found['host']} appears twice; list each host once")
        hosts[found["host"]] = int(found["slots"])
    if not hosts:
        return {}
    slots = set(hosts.values())
    if len(slots) > 1:
        listed = ", ".join(f"{host} {count}" for host, count in hosts.items())
        raise ValueError(f"hostfile: all hosts must have the same number of slots, not {listed}")
    return {"nodes": len(hosts), "devices": slots.pop(), "workers": list(hosts)}
