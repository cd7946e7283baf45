"""Checks that all ranks have the same inputs and see the same directory."""

import json
import secrets
import socket
from dataclasses import asdict
from pathlib import Path

from baichuan_core.errors import CheckpointError, DatasetError
from baichuan_core.finetuning.distributed.group import RankGroup
from baichuan_core.finetuning.identity import RunIdentity


def require_same_inputs(identity: RunIdentity, group: RankGroup) -> None:
    """Check that all ranks have the same base, data and options. If not, all of them raise the same error.

    Raises:
        DatasetError: Data or options differ; the message names the ranks, their machines and the differences.
        CheckpointError: The base differs.
    """
    mine = json.dumps(asdict(identity), sort_keys=True)
    everyone = group.gather((socket.gethostname(), mine))
    host_0, reference = everyone[0]
    for rank, (host, theirs) in enumerate(everyone):
        if theirs == reference:
            continue
        differences = identity.find_differences(json.loads(theirs), json.loads(reference))
        kind = CheckpointError if json.loads(theirs)["base"] != json.loads(reference)["base"] else DatasetError
        raise kind(
            f"rank {rank} (machine {host}) and rank 0 (machine {host_0}) disagree:"
            f" {'; '.join(differences)}. Start every machine with the same files and options"
        )


def require_shared_directory(directory: Path, group: RankGroup) -> None:
    """Check that all ranks share the directory to which they write their parts of resume points.

    Raises:
        CheckpointError: A rank does not see a file that rank 0 has written.
    """
    if group.size == 1:
        return
    token = directory / f".shared-{group.gather(secrets.token_hex(8))[0]}"
    if group.is_main:
        token.touch()
    group.wait_for_all()
    seen = group.gather((socket.gethostname(), token.exists()))
    if group.is_main:
        token.unlink(missing_ok=True)
    for rank, (host, is_seen) in enumerate(seen):
        if not is_seen:
            raise CheckpointError(
                f"{directory} on rank {rank} (machine {host}) is not the same as on rank 0 (machine {seen[0][0]});"
                " put checkpoints on a file system that all machines share"
            )
