"""Answers that are already given, a file a subject, so that an interrupted evaluation goes on where it was."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from baichuan_core.checkpoint import make_directory

from .answers import Answer, Prompt
from .written import write_text


@dataclass(frozen=True, slots=True)
class SavedAnswers:
    """Folders with answers: new ones go to `folder`, if there is one, and older ones are looked for in all.

    Attributes:
        folder: Where to write.
        earlier: Folders of earlier attempts at the same evaluation.
    """

    folder: Path | None
    earlier: Sequence[Path]

    def find(self, key: str) -> list[Answer] | None:
        """The answers under a key, if some attempt has given all of them."""
        for folder in [*([self.folder] if self.folder else []), *self.earlier]:
            with suppress(OSError, ValueError, TypeError):  # none, or one that was damaged: they are given again
                rows = json.loads((folder / f"{key}.json").read_text(encoding="utf-8"))
                return [Answer(**row | {"log_likelihoods": tuple(row["log_likelihoods"])}) for row in rows]
        return None

    def keep(self, key: str, answers: Sequence[Answer]) -> None:
        """Write answers under a key, whole or not at all."""
        if self.folder is None:
            return
        make_directory(self.folder)
        write_text(self.folder / f"{key}.json", json.dumps([asdict(answer) for answer in answers]))


def key_of(model: str, prompts: Sequence[Prompt], right: Sequence[str], letters: Sequence[Sequence[int]]) -> str:
    """A name that only the same model's answers to the same questions have."""
    asked = [model, [(prompt.token_ids, prompt.shots) for prompt in prompts], list(right), list(letters)]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()
