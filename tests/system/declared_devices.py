"""A pool whose workers declare their GPUs: a dispatcher with a tiny model; tests start the workers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from examples.tiny_checkpoint import make_tiny_checkpoint
from tests.workers.deployment import Deployment, RedisServer, deployment

GIB = 2**30
CLOCK: dict[str, Any] = {"lease_seconds": 30, "heartbeat_seconds": 0.5, "backoff_seconds": 0}


def gpus(worker: str, *sizes: int) -> str:
    """Declare GPUs of these sizes in GiB."""
    return json.dumps(
        [
            {"type": "cuda", "index": i, "uuid": f"GPU-{worker}-{i}", "name": "declared", "memory_bytes": size * GIB}
            for i, size in enumerate(sizes)
        ]
    )


@contextmanager
def running_pool(folder: Path, address: str = "127.0.0.1") -> Iterator[Deployment]:
    """Run Redis at an address and a dispatcher, with the model "tiny"."""
    server = RedisServer(folder, address)
    server.start()
    models = folder / "models"
    with deployment(folder / "home", server, model_roots=str(models), **CLOCK) as made:
        made.register("tiny", make_tiny_checkpoint(models / "tiny"))
        made.start_dispatcher()
        yield made
    server.stop()
