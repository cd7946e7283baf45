"""The run of one rank, in the process that its launcher started."""

import os
import signal
import sys
import threading
import warnings

from baichuan_core.errors import BaichuanError
from baichuan_core.finetuning.distributed.group import join_group, leave_group
from baichuan_core.finetuning.distributed.messages import PAUSE, Task, encode_message
from baichuan_core.finetuning.finetune import run_finetuning
from baichuan_core.finetuning.report import FinetuningReport
from baichuan_core.free_memory import limit_device
from baichuan_core.out_of_memory import is_out_of_memory
from baichuan_core.progress import Progress


def run_rank(messages: int) -> None:
    """Do the task that comes by stdin and send its progress, and its report or error, to the descriptor `messages`."""
    task = _read_task()
    paused = threading.Event()
    threading.Thread(target=_hear, args=(paused,), daemon=True).start()
    try:
        os.write(messages, encode_message(_run(task, paused, messages)))
    except BaichuanError as error:
        os.write(messages, encode_message(error))
        sys.exit(1)
    except Exception as error:
        os.write(messages, encode_message(MemoryError(str(error)) if is_out_of_memory(error) else error))
        raise


def _read_task() -> Task:
    read = bytearray()
    while not read.endswith(b"\n"):  # byte by byte, so that no later line is read
        if not (byte := os.read(0, 1)):
            sys.exit("the launcher has ended")
        read += byte
    return Task.decode(bytes(read))


def _run(task: Task, paused: threading.Event, messages: int) -> FinetuningReport:
    def report(progress: Progress) -> None:
        if task.group.local_rank == 0:
            os.write(messages, encode_message(progress))

    if task.limits:
        _limit_memory(task)
    join_group(task.group, address=task.plan.master_addr, port=task.port, on_gpu=task.on_gpu)
    if task.plan.deepspeed is not None:
        _start_deepspeed(on_gpu=task.on_gpu)
    finished = run_finetuning(task.inputs, task.plan, task.group, should_pause=paused.is_set, on_progress=report)
    leave_group()
    return finished


def _limit_memory(task: Task) -> None:
    """Keep to this rank's part of what the launcher may take."""
    index = task.group.local_rank if task.on_gpu else 0
    limit = task.limits.get(index)
    if limit is not None:
        limit_device(index, limit if task.on_gpu else limit // task.plan.processes)


def _start_deepspeed(*, on_gpu: bool) -> None:
    """Make DeepSpeed use the group that this rank has joined."""
    import deepspeed  # noqa: PLC0415 - slow, and only ZeRO needs it

    if not on_gpu:
        # DeepSpeed would compile it now; a rank that is killed meanwhile leaves a lock that blocks all later ones.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed calls functions of torch under names that are deprecated, in every step.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    deepspeed.init_distributed("nccl" if on_gpu else "gloo")


def _hear(paused: threading.Event) -> None:
    """Note a request to pause; stdin closes when the launcher ends."""
    # Not through sys.stdin, whose lock Python would wait for when it shuts down.
    while os.read(0, len(PAUSE)):
        paused.set()
    os.kill(os.getpid(), signal.SIGKILL)
