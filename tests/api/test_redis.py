"""With a real Redis-compatible server: readiness reports it, and a submission wakes the dispatcher."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from jobs.transport import WAKE_KEY
from tests.api.conftest import serving, small


@pytest.mark.integration
def test_a_submission_wakes_the_dispatcher(tmp_path: Path, valkey_server_factory: Callable[..., Any]) -> None:
    url = valkey_server_factory().connection_url.replace("valkey://", "redis://")
    with redis.Redis.from_url(url) as broker, serving(small(tmp_path / "home", redis_url=url)) as api:
        assert api.client.get("/readyz").json()["redis"] == "ok"
        api.register_model()
        broker.blpop([WAKE_KEY], timeout=30)  # that of the registration
        api.submit()
        assert broker.blpop([WAKE_KEY], timeout=30) is not None
