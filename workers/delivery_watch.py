"""Detects when messages are no longer reaching this worker, even though it seems healthy."""

import logging
import time
from collections.abc import Callable

MAX_RECONNECTIONS = 2

log = logging.getLogger(__name__)


class DeliveryWatch:
    """Checks that attempts recorded in SQL as sent to this worker arrive; if not, reconnects and eventually gives up.

    As long as other messages arrive, an unclaimed attempt proves nothing: Redis may have lost only that one message.
    """

    def __init__(
        self, reconnect: Callable[[], None], give_up: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reconnect = reconnect
        self._give_up = give_up
        self._clock = clock
        self._last_message_at = clock()
        self._reconnections = 0

    @property
    def is_lost(self) -> bool:
        """Whether the worker must be restarted, because reconnecting has not helped."""
        return self._reconnections > MAX_RECONNECTIONS

    def record_message(self) -> None:
        """Record that a message has arrived."""
        self._last_message_at = self._clock()
        self._reconnections = 0

    def check_delivery(self, unclaimed_seconds: float | None) -> None:
        """Reconnect if an attempt was sent to this worker long ago and no message has arrived since."""
        if self.is_lost or unclaimed_seconds is None or self._clock() - self._last_message_at < unclaimed_seconds:
            return
        self._last_message_at = self._clock()
        self._reconnections += 1
        if self._reconnections <= MAX_RECONNECTIONS:
            log.warning("an attempt was sent %.1f s ago, but no message has arrived; reconnecting", unclaimed_seconds)
            self._reconnect()
        else:
            log.error("still no message after reconnecting to Redis %d times; stopping the worker", MAX_RECONNECTIONS)
            self._give_up()
