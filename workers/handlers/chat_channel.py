"""Channel for an attempt's chats within its runner: passes calls to the handler and replies to the worker."""

from collections.abc import Callable, Sequence

from jobs.chats.messages import Call, Reply


class ChatChannel:
    """Carries the calls that arrive for an attempt and the replies to them.

    Args:
        announce: Tells the worker whether the attempt accepts chats.
        send: Sends replies to the worker.
    """

    def __init__(self, announce: Callable[[bool], None], send: Callable[[Sequence[Reply]], None]) -> None:
        self.send = send
        self._announce = announce
        self._on_call: Callable[[Call], None] | None = None

    def open(self, on_call: Callable[[Call], None]) -> None:
        """Accept chats from now on; another thread passes each call to `on_call`."""
        self._on_call = on_call
        self._announce(True)

    def reject_new_chats(self) -> None:
        """Announce that the attempt accepts no new chats; open chats continue."""
        self._announce(False)

    def close(self) -> None:
        """Drop calls from now on; the worker refuses them when the attempt ends."""
        self._on_call = None

    def deliver(self, call: Call) -> None:
        """Pass a call to the handler."""
        if (on_call := self._on_call) is not None:
            on_call(call)
