"""Announces new feed entries to the API processes without delaying the caller."""

import threading
from collections.abc import Callable, Collection


class Announcer:
    """A thread that announces which projects have new feed entries; unsent announcements are merged."""

    def __init__(self, announce: Callable[[Collection[str]], None]) -> None:
        self._announce = announce
        self._projects: set[str] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)
        self._thread.start()

    def add(self, project_ids: Collection[str]) -> None:
        """Queue an announcement that the feeds of these projects have new entries."""
        with self._changed:
            self._projects.update(project_ids)
            self._changed.notify()

    def close(self) -> None:
        """Send the queued announcements and stop the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._projects or self._stopping)
                projects, self._projects = self._projects, set()
            if projects:
                self._announce(projects)
            elif self._stopping:
                return
