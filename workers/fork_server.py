"""The fork server: a process that does the slow imports once, then forks runners.

It must not initialize CUDA, which does not survive a fork.

The worker sends a token together with the descriptors of a runner's pipes. The replies are JSON, one per packet:
`{"token": …, "pid": …}` once the runner has been forked, and `{"pid": …, "code": …}` when it has exited.
"""

import json
import os
import select
import signal
import socket
import sys

from workers import tether

PIPE_COUNT = 4
MAX_TOKEN_BYTES = 64


def main(arguments: list[str]) -> None:
    """Fork runners until the worker closes its socket; called by `python -m workers.fork_server SOCKET KINDS`."""
    descriptor, kinds = arguments
    tether.die_with_parent()
    channel = socket.socket(fileno=int(descriptor))
    from workers import runner  # noqa: PLC0415 - the process must be tied to the worker before any slow import

    runner.preload(kinds.split(","))
    wake_up, woken = os.pipe()
    os.set_blocking(wake_up, False)
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([channel.fileno(), wake_up], [], [])
        if wake_up in ready:
            os.read(wake_up, 4096)
            _report_exits(channel)
        if channel.fileno() in ready and not _fork(channel, (wake_up, woken)):
            return


def _fork(channel: socket.socket, own: tuple[int, int]) -> bool:
    """Fork one runner; return False if the worker has closed its end of the socket."""
    token, ends, _, _ = socket.recv_fds(channel, MAX_TOKEN_BYTES, PIPE_COUNT)
    if not token:
        return False
    pid = os.fork()
    if pid == 0:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        channel.close()
        for descriptor in own:
            os.close(descriptor)
        from workers.runner import PipeEnds, run  # noqa: PLC0415

        run(PipeEnds(*ends))
    for descriptor in ends:
        os.close(descriptor)
    channel.send(json.dumps({"token": token.decode(), "pid": pid}).encode())
    return True


def _report_exits(channel: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        channel.send(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
