"""Celery's Redis transport for messages that need no acknowledgement, because SQL records which attempts must run.

kombu counts unacknowledged messages and stops fetching once their number reaches the prefetch count. If Redis goes
away while a message waits behind a running job, acknowledging fails, the count never falls, and the worker never
fetches again. With this transport, reading a message removes it from Redis. If the message is lost, the attempt
expires in SQL and the job is sent again.
"""

import logging
from collections.abc import Callable
from queue import Empty
from typing import Any

from kombu.transport import redis
from redis.exceptions import ResponseError

log = logging.getLogger(__name__)


class NoAckQoS(redis.QoS):
    """A QoS that keeps no record of messages, so that none can be miscounted or delivered again."""

    restore_at_shutdown = False

    def can_consume(self) -> bool:
        """Always allow fetching: the dispatcher sends no more attempts than the worker has slots."""
        return True

    def append(self, message: Any, delivery_tag: str) -> None:
        """Record nothing."""

    def ack(self, delivery_tag: str) -> None:
        """Send nothing to Redis, which no longer has the message."""

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Drop the message."""

    def restore_visible(self, start: int = 0, num: int = 10, interval: int = 10) -> None:
        """Restore nothing, because no message is recorded; kombu calls this every few seconds."""


class Channel(redis.Channel):
    """A channel that logs and drops malformed messages in a queue instead of failing."""

    QoS = NoAckQoS

    def _brpop_read(self, **options: Any) -> bool:
        """Read the reply to BRPOP and deliver its message."""
        try:
            return bool(super()._brpop_read(**options))  # type: ignore[no-untyped-call]
        except (Empty, *self.connection_errors):
            raise
        except ResponseError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            self._delete_keys_of_wrong_type()
        except Exception as error:  # noqa: BLE001 - no message may crash the worker; the lost attempt expires in SQL
            log.error("dropped a malformed message from %s: %r", ", ".join(self.active_queues), error)  # noqa: TRY400
        return True

    def _delete_keys_of_wrong_type(self) -> None:
        with self.conn_or_acquire() as client:
            for key in self._list_keys():
                found = client.type(key).decode()
                if found not in ("list", "none"):
                    client.delete(key)
                    log.error("deleted the Redis key %s: a queue must be a list, but this was a %s", key, found)

    def _list_keys(self) -> list[str]:
        """Return all keys that BRPOP reads: one per queue and priority."""
        prioritized: Callable[[str, int], str] = self._q_for_pri
        return [prioritized(queue, priority) for queue in self.active_queues for priority in self.priority_steps]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Do nothing: no routing table is needed, because every message names its queue."""


class Transport(redis.Transport):
    """Redis transport that uses the `Channel` above; `broker_transport` in Celery's settings names it."""

    Channel = Channel
