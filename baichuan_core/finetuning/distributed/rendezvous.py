"""Coordinates the launchers of several machines: compares their plans, and detects when one dies."""

import json
import socket
import time
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined] # public, but not marked as exported

from baichuan_core.errors import RankFailedError, UnsupportedError
from baichuan_core.finetuning.distributed.distribution import DistributionPlan

ARRIVAL_TIMEOUT = timedelta(minutes=10)  # long, because people may start the launchers by hand, one after the other
RESPONSE_TIMEOUT = timedelta(seconds=15)
HEARTBEAT_TIMEOUT_SECONDS = 15.0
HEARTBEAT_INTERVAL_SECONDS = 1.0
# Fields of a plan that may differ between machines.
MACHINE_SPECIFIC_FIELDS = ("node_rank", "master_addr", "master_port", "reason")


class Rendezvous:
    """The launcher's connection to a key-value store on machine 0, which the ranks also use to find each other.

    Attributes:
        port: Port of the store on machine 0.
    """

    def __init__(self, plan: DistributionPlan) -> None:
        """Open the store on machine 0, or connect to it.

        Raises:
            RankFailedError: Machine 0 is not responding.
            UnsupportedError: The port is in use.
        """
        self.plan = plan
        self._beats = 0
        self._next_beat = 0.0
        self._seen = {node: (0, time.monotonic() + ARRIVAL_TIMEOUT.total_seconds()) for node in range(1, plan.nodes)}
        if plan.node_rank == 0:
            with _listen(plan) as listener:
                self.port: int = listener.getsockname()[1]
                self._store = TCPStore(
                    plan.master_addr,
                    self.port,
                    is_master=True,
                    wait_for_workers=False,
                    timeout=RESPONSE_TIMEOUT,
                    master_listen_fd=listener.detach(),
                )
        else:
            self.port = plan.master_port or 0
            self._store = self._connect()

    def _connect(self) -> TCPStore:
        try:
            store = TCPStore(self.plan.master_addr, self.port, is_master=False, timeout=ARRIVAL_TIMEOUT)
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            raise self._make_machine_0_error() from error
        store.set_timeout(RESPONSE_TIMEOUT)
        return store

    def compare_plans(self) -> None:
        """Check that this machine's `node_rank` is free and that its plan matches that of machine 0.

        Raises:
            UnsupportedError: The message names the field that differs.
            RankFailedError: Machine 0 is not responding.
        """
        if self.plan.nodes == 1:
            return
        mine = {name: value for name, value in asdict(self.plan).items() if name not in MACHINE_SPECIFIC_FIELDS}
        node = self.plan.node_rank
        try:
            if self._store.add(f"arrived/{node}", 1) > 1:
                raise UnsupportedError(f"node_rank {node} is already in use; use a different node_rank on each machine")
            if node == 0:
                self._store.set("plan", json.dumps(mine))
                return
            theirs: dict[str, Any] = json.loads(self._store.get("plan"))
        except RuntimeError as error:
            raise self._make_machine_0_error() from error
        for name, value in json.loads(json.dumps(mine)).items():
            if theirs.get(name) != value:
                raise UnsupportedError(
                    f"{name} is {theirs.get(name)!r} on machine 0 and {value!r} on machine {node};"
                    " start all machines with the same value"
                )

    def report_failure(self, error: BaseException) -> None:
        """Report a failure of this machine, so that the other machines stop as well."""
        if self.plan.nodes > 1:
            try:
                self._store.set(
                    "failure",
                    f"machine {self.plan.node_rank} ({socket.gethostname()}): {str(error) or type(error).__name__}",
                )
                # `set` returns before the store has the value; wait for it, because this process may exit next.
                self._store.check(["failure"])
            except RuntimeError:  # machine 0 is no longer responding; the other machines will notice this, too
                return

    def exchange_heartbeats(self) -> None:
        """Send a heartbeat and check for failures elsewhere, at most once per `HEARTBEAT_INTERVAL_SECONDS`.

        Raises:
            RankFailedError: A machine has failed or is no longer responding.
        """
        if self.plan.nodes == 1 or time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + HEARTBEAT_INTERVAL_SECONDS
        try:
            if self._store.check(["failure"]):
                raise RankFailedError(f"the run stopped on another machine: {self._store.get('failure').decode()}")
            self._beats += 1
            self._store.set(f"beat/{self.plan.node_rank}", str(self._beats))
            if self.plan.node_rank == 0:
                self._check_heartbeats()
        except RuntimeError as error:
            raise self._make_machine_0_error() from error

    def _check_heartbeats(self) -> None:
        now = time.monotonic()
        for node, (known, deadline) in self._seen.items():
            beats = int(self._store.get(f"beat/{node}")) if self._store.check([f"beat/{node}"]) else 0
            if beats != known:
                self._seen[node] = (beats, now + HEARTBEAT_TIMEOUT_SECONDS)
            elif now > deadline and not self._store.check([f"done/{node}"]):
                problem = "is no longer responding" if known else "has not joined"
                raise RankFailedError(f"machine {node} {problem}; restart the run on all machines")

    def close(self) -> None:
        """Report that this machine has finished; machine 0 waits for all others, because they need its store.

        Raises:
            RankFailedError: Another machine has failed in the meantime.
        """
        if self.plan.nodes == 1:
            return
        self._store.set(f"done/{self.plan.node_rank}", "")
        while self.plan.node_rank == 0 and not self._store.check([f"done/{node}" for node in self._seen]):
            self.exchange_heartbeats()
            time.sleep(0.05)

    def _make_machine_0_error(self) -> RankFailedError:
        return RankFailedError(
            f"machine 0 is not responding at {self.plan.master_addr}:{self.port}; check master_addr and master_port,"
            " and whether its launcher is running"
        )


def _listen(plan: DistributionPlan) -> socket.socket:
    """Listen on the loopback interface, or on all interfaces if the run has several machines."""
    address = "127.0.0.1" if plan.nodes == 1 else "0.0.0.0"  # noqa: S104 - other machines connect to it
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, plan.master_port or 0))
    except OSError as error:
        listener.close()
        raise UnsupportedError(
            f"master_port {plan.master_port} cannot be used ({error.strerror}); choose another port"
        ) from error
    listener.listen(2048)
    return listener
