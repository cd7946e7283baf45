"""Detects that messages no longer reach this worker, although it seems to be well."""

import logging
import time
from collections.abc import Callable

MAX_RECONNECTIONS = 2

log = logging.getLogger(__name__)


class DeliveryWatch:
    """Compares the attempts sent to the worker, as recorded in SQL, with those that arrived; reconnects, then gives up.

    While messages arrive, an unclaimed attempt proves nothing: Redis may have lost only its message.
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
        """Whether reconnecting did not help, so that the worker must be started again."""
        return self._reconnections > MAX_RECONNECTIONS

    def note_message(self) -> None:
        """Note that a message arrived."""
        self._last_message_at = self._clock()
        self._reconnections = 0

    def check(self, unclaimed_seconds: float | None) -> None:
        """Reconnect if an attempt was sent to this worker long ago and no message has arrived since."""
        if self.is_lost or unclaimed_seconds is None or self._clock() - self._last_message_at < unclaimed_seconds:
            return
        self._last_message_at = self._clock()
        self._reconnections += 1
        if self._reconnections <= MAX_RECONNECTIONS:
            log.warning("an attempt was sent %.1f s ago and no message arrived; reconnecting", unclaimed_seconds)
            self._reconnect()
        else:
            log.error("no message arrived after %d new connections to Redis; ending the worker", MAX_RECONNECTIONS)
            self._give_up()
