"""Options that many commands share."""

from typing import Annotated

import typer

from cli.client import Client
from cli.endpoint import resolve

Url = Annotated[
    str | None,
    typer.Option("--url", help="Address of the service. By default BAICHUAN_URL, then the address saved by `up`."),
]
Key = Annotated[
    str | None, typer.Option("--key", help="API key. By default BAICHUAN_API_KEY, then the key saved by `up`.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]


def connect(url: str | None, key: str | None) -> Client:
    """Return a client for the service to use."""
    return Client(resolve(url, key))
