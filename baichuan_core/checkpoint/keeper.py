"""Keeps the model that was loaded last, so that the next operation on it need not load it."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar, cast

from baichuan_core.free_memory import release_memory
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.tokenizer import BaichuanTokenizer

from .loading import DtypeName, load_model, load_tokenizer

T = TypeVar("T")

FileStamp = tuple[str, int, int, int, int]
NATIVE = "transformers"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Everything that decides what is loaded.

    Attributes:
        checkpoint: Directory of a checkpoint.
        adapter: Directory of a LoRA adapter for it.
        dtype: Dtype of the weights, "auto" for that of the checkpoint.
        device: Device of the weights; the first GPU, or else the CPU, if None.
    """

    checkpoint: Path
    adapter: Path | None = None
    dtype: DtypeName = "auto"
    device: str | None = None

    def stamp_files(self) -> tuple[FileStamp, ...]:
        """Return name, size, times of change and inode of all files, which differ if a file was changed or replaced."""
        folders = [self.checkpoint] if self.adapter is None else [self.checkpoint, self.adapter]
        files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_file()]
        found = [(str(path), path.stat()) for path in files]
        return tuple((name, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino) for name, one in found)


@dataclass(frozen=True, slots=True)
class KeptModel:
    """What a keeper has.

    Attributes:
        source: What was loaded.
        stamps: Its files when that began.
        engine: Name of the engine that runs it.
        variant: Settings that an engine which loads the model itself was started with.
        loaded: The model, or the engine that holds it.
    """

    source: ModelSource
    stamps: tuple[FileStamp, ...]
    engine: str
    variant: Hashable
    loaded: Any


class ModelKeeper:
    """Holds one loaded model at most: it is released before another one is loaded. The last tokenizer is kept, too.

    What is kept is used again only if none of its files has changed since.

    Example:
        models = ModelKeeper()
        evaluate_perplexity(checkpoint, text, output, models=models)   loads the model
        generate(checkpoint, requests, file, models=models)            uses it again
    """

    def __init__(self) -> None:
        self.kept: KeptModel | None = None
        self._tokenizer: tuple[tuple[FileStamp, ...], BaichuanTokenizer] | None = None

    @classmethod
    @contextmanager
    def lend(cls, models: Self | None) -> Iterator[Self]:
        """Yield `models`, or if there is none a keeper that releases its model when the block ends."""
        if models is not None:
            yield models
            return
        own = cls()
        try:
            yield own
        finally:
            own.release()

    def load(self, source: ModelSource) -> BaichuanForCausalLM:
        """Return the model, prepacked for inference; it is loaded if it is not kept.

        Raises:
            CheckpointError, AdapterMismatchError, UnsupportedError: See `load_model`.
        """

        def start() -> BaichuanForCausalLM:
            model = load_model(source.checkpoint, dtype=source.dtype, device=source.device, adapter=source.adapter)
            return model.prepack()

        return self.keep(source, NATIVE, start)

    def load_tokenizer(self, checkpoint: Path) -> BaichuanTokenizer:
        """Return the tokenizer of a checkpoint; reading a published one takes a second.

        Raises:
            TokenizerError, CheckpointError: See `load_tokenizer`.
        """
        stamps = ModelSource(checkpoint).stamp_files()
        if self._tokenizer is None or self._tokenizer[0] != stamps:
            self._tokenizer = stamps, load_tokenizer(checkpoint)
        return self._tokenizer[1]

    def keep(self, source: ModelSource, engine: str, start: Callable[[], T], *, variant: Hashable = None) -> T:
        """Return what `start` returned for the same source, engine and variant, or call it and keep its result."""
        stamps = source.stamp_files()
        kept = self.kept
        wanted = (source, stamps, engine, variant)
        if kept is not None and (kept.source, kept.stamps, kept.engine, kept.variant) == wanted:
            return cast(T, kept.loaded)
        del kept
        self.release()
        loaded = start()
        self.kept = KeptModel(*wanted, loaded)
        return loaded

    def holds(self, source: ModelSource) -> bool:
        """Whether `load` would return a kept model."""
        kept = self.kept
        return (
            kept is not None and (kept.source, kept.engine) == (source, NATIVE) and kept.stamps == source.stamp_files()
        )

    def release(self) -> None:
        """Release the kept model, and the memory that nothing else uses."""
        if self.kept is None:
            return
        close = getattr(self.kept.loaded, "close", None)  # of engines with memory outside torch's allocator
        self.kept = None
        if close is not None:
            close()
        release_memory()
