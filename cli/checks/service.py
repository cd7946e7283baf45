"""Checks the service as a client sees it: address, readiness, key, workers."""

from cli.checks.result import CheckResult
from cli.client import Client
from cli.endpoint import resolve_endpoint
from cli.errors import CommandError


def check_service(url: str | None, key: str | None) -> list[CheckResult]:
    """Check the service, and stop at the first failure that makes later checks impossible."""
    try:
        endpoint = resolve_endpoint(url, key)
    except CommandError as error:
        return [
            CheckResult(
                "service", "failed", str(error), "start `baichuan up`, or set BAICHUAN_URL and BAICHUAN_API_KEY"
            )
        ]
    with Client(endpoint) as client:
        ready = _check_readiness(client)
        return [ready] if ready.status == "failed" else [ready, *_check_with_key(client)]


def _check_readiness(client: Client) -> CheckResult:
    try:
        redis = client.get("/readyz").get("redis")
    except CommandError as error:
        return CheckResult("service", "failed", str(error), "see <home>/logs/api.log")
    if redis != "ok":
        return CheckResult(
            "service", "failed", f"{client.url} is ready, but Redis is {redis}", "start Redis; until then, jobs wait"
        )
    return CheckResult("service", "ok", f"{client.url} is ready")


def _check_with_key(client: Client) -> list[CheckResult]:
    try:
        client.get("/v1/jobs", {"limit": 1})
        workers = list(client.list_items("/v1/workers"))
    except CommandError as error:
        return [CheckResult("key", "failed", str(error), "set BAICHUAN_API_KEY to a valid key")]
    found = [CheckResult("key", "ok", "accepted")]
    if not workers:
        return [
            *found,
            CheckResult("workers", "failed", "no live workers; jobs wait", "start one with `baichuan worker`"),
        ]
    names = ", ".join(f"{worker['id']} on {worker['hostname']}" for worker in workers)
    return [*found, CheckResult("workers", "ok", names)]
