"""Saves answers in one file per subject, so that an interrupted evaluation can resume."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from baichuan_core.checkpoint import make_directory

from .answers import Answer, Prompt
from .result_files import write_text_atomically


@dataclass(frozen=True, slots=True)
class SavedAnswers:
    """Answers saved by this run and by earlier ones.

    Attributes:
        folder: Folder that new answers are written to; None to save nothing.
        earlier: Folders of earlier attempts at the same evaluation.
    """

    folder: Path | None
    earlier: Sequence[Path]

    def find(self, key: str) -> list[Answer] | None:
        """Return the answers saved under a key by this or an earlier run; None if there are none."""
        for folder in [*([self.folder] if self.folder else []), *self.earlier]:
            with suppress(OSError, ValueError, TypeError):  # the file is missing or damaged: answer the questions again
                rows = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
                return [Answer(**row | {"log_likelihoods": tuple(row["log_likelihoods"])}) for row in rows]
        return None

    def save(self, key: str, answers: Sequence[Answer]) -> None:
        """Atomically save answers under a key."""
        if self.folder is None:
            return
        make_directory(self.folder)
        write_text_atomically(self.folder / f"{key}.json", json.dumps([asdict(answer) for answer in answers]))


def hash_questions(
    model: str, prompts: Sequence[Prompt], right: Sequence[str], letters: Sequence[Sequence[int]]
) -> str:
    """Return a hash that identifies a model together with its questions."""
    content = [model, [(prompt.token_ids, prompt.shots) for prompt in prompts], list(right), list(letters)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
