"""Addresses of the HTTP API whose parts come from the user."""

from urllib.parse import quote


def job_address(job: str, part: str = "") -> str:
    """`/v1/jobs/{id}`, or something below it; whatever the user typed as the id stays one segment."""
    below = f"/{quote(part)}" if part else ""
    return f"/v1/jobs/{quote(job, safe='')}{below}"
