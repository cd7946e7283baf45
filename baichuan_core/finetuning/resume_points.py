"""Makes each resume point loadable as a model, and notifies the caller."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from baichuan_core.checkpoint import copy_companion_files, write_base_identity
from baichuan_core.config import BaichuanConfig

ADAPTER_CONFIG_FILE = "adapter_config.json"
CONFIG_FILE = "config.json"


def ignore_resume_point(_folder: Path) -> None:
    """Do nothing; the default for `on_resume_point`."""


@dataclass(slots=True)
class ResumePointCallback(TrainerCallback):
    """Callback that adds the files needed to load a resume point as a model, and notifies the caller.

    Attributes:
        base: Directory of the base checkpoint.
        config: Configuration of the base checkpoint.
        on_resume_point: Called with the folder, in the training thread.
    """

    base: Path
    config: BaichuanConfig
    on_resume_point: Callable[[Path], None]

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002
        **_: Any,
    ) -> None:
        """Add the tokenizer, the generation settings and, for an adapter, the identity of its base."""
        if not state.is_world_process_zero:
            return
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if (folder / ADAPTER_CONFIG_FILE).is_file():
            (folder / "README.md").unlink(missing_ok=True)  # peft writes an empty model card
            write_base_identity(folder, self.base)
        elif (folder / CONFIG_FILE).is_file():
            self._restore_cache_setting(folder / CONFIG_FILE)
        copy_companion_files(self.base, folder)
        self.on_resume_point(folder)

    def _restore_cache_setting(self, file: Path) -> None:
        """Restore `use_cache`, which the Trainer disables for training."""
        content = json.loads(file.read_text(encoding="utf-8"))
        content["use_cache"] = self.config.use_cache
        file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
