"""Addresses of the HTTP API whose parts come from the user."""

from urllib.parse import quote


def job_address(job: str, part: str = "") -> str:
    """Return `/v1/jobs/{id}` or an address below it; the id stays one path segment whatever the user typed."""
    below = f"/{quote(part)}" if part else ""
    return f"/v1/jobs/{quote(job, safe='')}{below}"
