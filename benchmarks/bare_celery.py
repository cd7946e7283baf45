"""Baseline for the dispatcher: a plain Celery task, sent directly to a worker, that records when it starts."""

import os
import time

import redis
from celery import Celery

app = Celery("bare", broker=os.environ["BARE_REDIS_URL"])
app.conf.update(task_ignore_result=True, worker_prefetch_multiplier=1, worker_enable_remote_control=False)


@app.task(name="bare.note")  # type: ignore[untyped-decorator]
def note(number: int) -> None:
    """Record the start time."""
    client = redis.Redis.from_url(os.environ["BARE_REDIS_URL"])
    client.rpush("bare:started", f"{number}:{time.time()}")
