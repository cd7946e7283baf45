"""Runs one rank, in the process that its launcher started."""

import os
import signal
import sys
import threading
import warnings
from pathlib import Path

from baichuan_core.errors import BaichuanError
from baichuan_core.finetuning.distributed.group import join_group, leave_group
from baichuan_core.finetuning.distributed.messages import PAUSE_COMMAND, RankTask, ResumePointSaved, encode_message
from baichuan_core.finetuning.finetune import run_finetuning
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.free_memory import limit_device_memory
from baichuan_core.out_of_memory import is_out_of_memory
from baichuan_core.progress import Progress


def run_rank(messages: int) -> None:
    """Run the task read from stdin; write its progress, then its report or error, to the descriptor `messages`."""
    task = _read_task()
    paused = threading.Event()
    threading.Thread(target=_watch_for_pause, args=(paused,), daemon=True).start()
    try:
        os.write(messages, encode_message(_run_task(task, paused, messages)))
    except BaichuanError as error:
        os.write(messages, encode_message(error))
        sys.exit(1)
    except Exception as error:
        os.write(messages, encode_message(MemoryError(str(error)) if is_out_of_memory(error) else error))
        raise


def _read_task() -> RankTask:
    line = bytearray()
    while not line.endswith(b"\n"):  # read byte by byte, to leave later lines for `_watch_for_pause`
        if not (byte := os.read(0, 1)):
            sys.exit("the launcher has exited")
        line += byte
    return RankTask.decode(bytes(line))


def _run_task(task: RankTask, paused: threading.Event, messages: int) -> FinetuningReport:
    def report_progress(progress: Progress) -> None:
        if task.group.local_rank == 0:
            os.write(messages, encode_message(progress))

    def report_resume_point(folder: Path) -> None:
        os.write(messages, encode_message(ResumePointSaved(folder)))

    if task.limits:
        _limit_memory(task)
    join_group(task.group, address=task.plan.master_addr, port=task.port, on_gpu=task.on_gpu)
    if task.plan.deepspeed is not None:
        _start_deepspeed(on_gpu=task.on_gpu)
    result = run_finetuning(
        task.inputs,
        task.plan,
        task.group,
        should_pause=paused.is_set,
        on_resume_point=report_resume_point,
        on_progress=report_progress,
    )
    leave_group()
    return result


def _limit_memory(task: RankTask) -> None:
    """Limit this rank to its share of the memory that the launcher may use."""
    index = task.group.local_rank if task.on_gpu else 0
    limit = task.limits.get(index)
    if limit is not None:
        limit_device_memory(index, limit if task.on_gpu else limit // task.plan.processes)


def _start_deepspeed(*, on_gpu: bool) -> None:
    """Make DeepSpeed use the group that this rank has joined."""
    import deepspeed  # noqa: PLC0415 - slow to import; used only with ZeRO

    if not on_gpu:
        # Otherwise, DeepSpeed would compile this extension here. A rank that is killed during compilation leaves a lock
        # file that blocks all later runs.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls deprecated torch functions at every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    deepspeed.init_distributed("nccl" if on_gpu else "gloo")


def _watch_for_pause(paused: threading.Event) -> None:
    """Set the event if the launcher requests a pause; kill this process if stdin closes because the launcher exited."""
    # Do not read through sys.stdin, because Python would wait for its lock at exit.
    while os.read(0, len(PAUSE_COMMAND)):
        paused.set()
    os.kill(os.getpid(), signal.SIGKILL)
