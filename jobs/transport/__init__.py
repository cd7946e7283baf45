"""Messages over Redis and Celery. SQL is the source of truth, so any message may be lost at any moment."""

from jobs.transport.announcer import Announcer
from jobs.transport.celery_client import (
    FEED_CHANNEL,
    TASK_NAME,
    WAKE_KEY,
    BrokerUnreachableError,
    Transport,
    create_celery_app,
    get_worker_queue_name,
)
from jobs.transport.waker import Waker

__all__ = [
    "FEED_CHANNEL",
    "TASK_NAME",
    "WAKE_KEY",
    "Announcer",
    "BrokerUnreachableError",
    "Transport",
    "Waker",
    "create_celery_app",
    "get_worker_queue_name",
]
