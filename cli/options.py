"""Options that many commands share."""

from typing import Annotated

import typer

from cli.client import Client
from cli.endpoint import resolve_endpoint

UrlOption = Annotated[
    str | None,
    typer.Option("--url", help="Address of the service. Default: BAICHUAN_URL, or else the address saved by `up`."),
]
KeyOption = Annotated[
    str | None, typer.Option("--key", help="API key. Default: BAICHUAN_API_KEY, or else the key saved by `up`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print only JSON on stdout.")]


def connect(url: str | None, key: str | None) -> Client:
    """Return a client for the service that these options select."""
    return Client(resolve_endpoint(url, key))
