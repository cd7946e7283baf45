"""Several launchers, one per machine: here on one host, and in two network namespaces."""

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors.torch import load_file

from baichuan_core import Distribution, Progress, RankFailedError
from baichuan_core.errors import TrainingPausedError
from examples.tiny_checkpoint import CONVERSATIONS, make_tiny_checkpoint
from tests.baichuan_core.finetuning.distributed_runs import OPTIONS, rank_processes, run
from tests.network_namespaces import connected_machines

ROOT = Path(__file__).parents[3]
ADAPTER = {"method": "lora", "batch_size": 2, "lora_target_modules": ("W_pack",)}
pytestmark = pytest.mark.timeout(1200)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_launcher(
    base: Path, directory: Path, node_rank: int, port: int, *, data: Path = CONVERSATIONS, address: str = "127.0.0.1",
    prefix: tuple[str, ...] = (),
) -> subprocess.Popen[str]:  # fmt: skip
    """Start the launcher of one machine in its own process group, as a shell would."""
    task: dict[str, Any] = {
        "checkpoint": str(base),
        "training_data": str(data),
        "output": str(directory / "output"),
        "checkpoints": str(directory / "checkpoints"),
        "records": str(directory / "records"),
        "validation_data": None,
        "resume": False,
        "options": OPTIONS | ADAPTER,
        "distribution": {
            "strategy": "ddp", "processes": 1, "nodes": 2, "node_rank": node_rank, "master_addr": address,
            "master_port": port,
        },
    }  # fmt: skip
    command = [*prefix, sys.executable, "-m", "baichuan_core.finetuning", json.dumps(task)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def distribution(port: int) -> Distribution:
    return Distribution(strategy="ddp", processes=1, nodes=2, node_rank=0, master_port=port)


@pytest.mark.alone  # two launchers with their ranks
def test_two_launchers_train_together_and_end_together(tmp_path: Path) -> None:
    base, port = make_tiny_checkpoint(tmp_path / "base"), free_port()
    other = start_launcher(base, tmp_path / "two", 1, port)
    two = run(base, tmp_path / "two", ADAPTER, distribution(port))
    printed, errors = other.communicate()
    assert other.returncode == 0, errors
    assert json.loads(printed)["final_loss"] == two.report.final_loss
    one = run(base, tmp_path / "one", ADAPTER | {"batch_size": 4})
    assert two.losses == pytest.approx(one.losses, rel=1e-6)
    assert all((two.weights[name] - weight).abs().max() <= 3e-7 for name, weight in one.weights.items())


@pytest.mark.long
def test_a_paused_run_waits_for_the_launchers_of_other_machines(tmp_path: Path) -> None:
    base, port = make_tiny_checkpoint(tmp_path / "base"), free_port()
    other = start_launcher(base, tmp_path / "two", 1, port)
    asked, continued = iter([False] * 3), threading.Event()

    def go_on() -> None:
        continued.set()
        other.send_signal(signal.SIGCONT)

    def hold_up(_: Path) -> None:
        other.send_signal(signal.SIGSTOP)
        threading.Timer(3, go_on).start()

    with pytest.raises(TrainingPausedError):
        run(
            base,
            tmp_path / "two",
            ADAPTER,
            distribution(port),
            should_pause=lambda: next(asked, True),
            on_resume_point=hold_up,
        )
    assert continued.is_set()
    _, errors = other.communicate()
    assert "paused after step" in errors


@pytest.mark.long
def test_a_killed_launcher_takes_its_ranks_and_the_other_machines_with_it(tmp_path: Path) -> None:
    base, port = make_tiny_checkpoint(tmp_path / "base"), free_port()
    other = start_launcher(base, tmp_path / "two", 1, port)
    ranks: list[psutil.Process] = []

    def kill(progress: Progress) -> None:
        if progress.metrics.get("step") == 3:
            ranks.extend(psutil.Process(other.pid).children())
            other.send_signal(signal.SIGKILL)

    with pytest.raises(RankFailedError):
        run(base, tmp_path / "two", ADAPTER, distribution(port), on_progress=kill)
    other.communicate()
    assert ranks
    assert not psutil.wait_procs(ranks, timeout=60)[1]
    assert not rank_processes()


@pytest.mark.long
def test_a_killed_rank_ends_the_other_machine(tmp_path: Path) -> None:
    base, port = make_tiny_checkpoint(tmp_path / "base"), free_port()
    other = start_launcher(base, tmp_path / "two", 1, port)

    def kill(progress: Progress) -> None:
        if progress.metrics.get("step") == 3:
            rank_processes()[0].send_signal(signal.SIGKILL)

    with pytest.raises(RankFailedError, match="rank 0 was killed by SIGKILL"):
        run(base, tmp_path / "two", ADAPTER, distribution(port), on_progress=kill)
    _, errors = other.communicate()
    assert other.returncode == 1
    assert "error: " in errors


@pytest.mark.long
def test_machines_with_different_data_are_rejected(tmp_path: Path) -> None:
    base, port = make_tiny_checkpoint(tmp_path / "base"), free_port()
    less = tmp_path / "less.json"
    less.write_text(json.dumps(json.loads(CONVERSATIONS.read_text())[:-1]))
    other = start_launcher(base, tmp_path / "two", 1, port, data=less)
    first = start_launcher(base, tmp_path / "two", 0, port)
    for launcher in (first, other):
        _, errors = launcher.communicate()
        assert launcher.returncode == 1
        assert "rank 1 (machine" in errors
        assert " disagree: " in errors
        assert "the training data is different" in errors


@pytest.mark.long
def test_two_network_namespaces_train_what_one_process_trains(tmp_path: Path) -> None:
    base, reports = make_tiny_checkpoint(tmp_path / "base"), []
    with connected_machines() as network:
        address = network.machines[0].address
        launchers = [
            start_launcher(base, tmp_path / "two", number, 29_511, address=address, prefix=machine.prefix)
            for number, machine in enumerate(network.machines)
        ]
        for launcher in launchers:
            printed, errors = launcher.communicate()
            assert launcher.returncode == 0, errors
            reports.append(json.loads(printed))
    one = run(base, tmp_path / "one", ADAPTER | {"batch_size": 4})
    assert reports[0]["final_loss"] == reports[1]["final_loss"] == pytest.approx(one.report.final_loss, rel=1e-6)
    two = load_file(tmp_path / "two" / "output" / "adapter_model.safetensors")
    assert all((two[name] - weight).abs().max() <= 3e-7 for name, weight in one.weights.items())
