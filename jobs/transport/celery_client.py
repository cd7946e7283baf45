"""The Celery application, and the sending side of its queues."""

import logging
from collections.abc import Collection

import redis
from celery import Celery
from kombu.exceptions import OperationalError

from jobs.settings import Settings

log = logging.getLogger(__name__)

TASK_NAME = "workers.run_attempt"
WAKE_KEY = "baichuan:wake"
FEED_CHANNEL = "baichuan:feed"
CONNECT_TIMEOUT_SECONDS = 1


class BrokerUnreachableError(Exception):
    """Redis is not responding; the job stays in SQL and is sent later."""


def get_worker_queue_name(worker_id: str) -> str:
    """Return the name of a worker's queue; each message is for the worker that the scheduler chose."""
    return f"worker.{worker_id}"


def create_celery_app(settings: Settings) -> Celery:
    """Return the Celery application that senders and workers use."""
    app = Celery("baichuan", broker=settings.effective_redis_url)
    app.conf.update(
        task_ignore_result=True,
        broker_transport="jobs.transport.redis_queues:Transport",
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,  # an error reply from Redis, such as "out of memory", must not stop a worker
        broker_transport_options={"max_retries": 1, "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS},
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
    )
    return app


class Transport:
    """A client of Celery and Redis that sends attempts, wake-ups and announcements, and waits for wake-ups."""

    def __init__(self, settings: Settings) -> None:
        self._celery = create_celery_app(settings)
        self._redis = redis.Redis.from_url(
            settings.effective_redis_url,
            socket_connect_timeout=CONNECT_TIMEOUT_SECONDS,
            socket_timeout=CONNECT_TIMEOUT_SECONDS + settings.poll_seconds,
        )
        self._poll_seconds = settings.poll_seconds
        self._woke = True

    def send_attempt(self, worker_id: str, attempt_id: str) -> None:
        """Tell a worker to run an attempt.

        Raises:
            BrokerUnreachableError: Redis is not responding.
        """
        try:
            self._celery.send_task(TASK_NAME, args=[attempt_id], queue=get_worker_queue_name(worker_id), retry=False)
        except (OperationalError, redis.RedisError) as error:
            raise BrokerUnreachableError(str(error)) from error

    def wake_dispatcher(self) -> None:
        """Wake the dispatcher because there is work; if the message is lost, the dispatcher finds it by polling."""
        try:
            with self._redis.pipeline() as pipeline:
                pipeline.lpush(WAKE_KEY, 1)
                pipeline.ltrim(WAKE_KEY, 0, 0)
                pipeline.execute()
            self._woke = True
        except redis.RedisError as error:
            if self._woke:  # log once per outage, not once per job
                log.warning("Redis is unreachable (%s); the dispatcher will find new jobs by polling", error)
            self._woke = False

    def announce(self, project_ids: Collection[str]) -> None:
        """Tell all API processes that the feeds of these projects have grown.

        If the message is lost, they find out by polling.
        """
        try:
            self._redis.publish(FEED_CHANNEL, ",".join(sorted(project_ids)))
        except redis.RedisError as error:
            log.debug("could not notify the API processes of new events: %s", error)

    def wait_for_work(self) -> None:
        """Wait for a wake-up, for at most the poll interval.

        Raises:
            BrokerUnreachableError: Redis is not responding.
        """
        try:
            self._redis.blpop([WAKE_KEY], timeout=self._poll_seconds)
        except redis.RedisError as error:
            if str(error).startswith("WRONGTYPE"):
                log.error("deleting the Redis key %s, because it is not a list", WAKE_KEY)  # noqa: TRY400
                self._redis.delete(WAKE_KEY)
                return
            raise BrokerUnreachableError(str(error)) from error

    def is_reachable(self) -> bool:
        """Whether Redis responds."""
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False

    def close(self) -> None:
        """Close all connections."""
        self._celery.close()
        self._redis.close()
