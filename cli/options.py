"""Options that many commands share."""

from typing import Annotated

import typer

from cli.client import Client
from cli.endpoint import resolve

Url = Annotated[
    str | None, typer.Option("--url", help="Address of the service. By default BAICHUAN_URL, then what `up` wrote.")
]
Key = Annotated[str | None, typer.Option("--key", help="API key. By default BAICHUAN_API_KEY, then what `up` wrote.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout, nothing else there.")]


def connect(url: str | None, key: str | None) -> Client:
    """Return a client of the service to use."""
    return Client(resolve(url, key))
