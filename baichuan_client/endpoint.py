"""The address of a service and the API key for it."""

import os
from dataclasses import dataclass
from typing import Any, Self

import httpx

from baichuan_client.errors import ConfigurationError

URL_VARIABLE = "BAICHUAN_URL"
KEY_VARIABLE = "BAICHUAN_API_KEY"
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
API_PATH = "/v1"
CONNECT_SECONDS = 5
DEFAULT_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a service, and the API key for it."""

    url: str
    api_key: str

    @classmethod
    def find(cls, url: str | None, api_key: str | None) -> Self:
        """Return the endpoint that the arguments describe; arguments that are None are read from the environment.

        Raises:
            ConfigurationError: The address or the key is missing or unusable.
        """
        address = url or os.environ.get(URL_VARIABLE)
        secret = api_key or os.environ.get(KEY_VARIABLE)
        if not address:
            raise ConfigurationError(f"no service address: pass base_url, or set {URL_VARIABLE}")
        if not address.startswith(("http://", "https://")):
            raise ConfigurationError(f"the address {address!r} must begin with http:// or https://")
        if not secret:
            raise ConfigurationError(f"no API key for {address}: pass api_key, or set {KEY_VARIABLE}")
        if not is_valid_header_value(secret):
            raise ConfigurationError("the API key contains invalid characters; copy it again")
        return cls(normalize_address(address), secret)

    def http_options(self, timeout: float) -> dict[str, Any]:
        """Return the arguments for creating an HTTP client.

        Raises:
            ConfigurationError: The address cannot be parsed.
        """
        try:
            host = httpx.URL(self.url).host
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ConfigurationError(f"the address {self.url!r} cannot be used: {error}") from error
        return {
            "base_url": self.url,
            "headers": {"Authorization": f"Bearer {self.api_key}"},
            "timeout": httpx.Timeout(timeout, connect=CONNECT_SECONDS),
            "trust_env": host not in LOOPBACK_HOSTS,  # a proxy cannot reach the loopback address of this machine
        }


def normalize_address(address: str) -> str:
    """Return an address without the `/v1` suffix that clients for OpenAI's API expect."""
    return address.rstrip("/").removesuffix(API_PATH).rstrip("/")


def is_valid_header_value(secret: str) -> bool:
    """Return whether this key can be sent in an HTTP header."""
    return secret.isascii() and secret.isprintable() and " " not in secret
