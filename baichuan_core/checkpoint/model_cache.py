"""Keeps the last loaded model in memory, so that the next operation can reuse it."""

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
NATIVE_ENGINE = "transformers"


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Arguments that determine which model is loaded.

    Attributes:
        checkpoint: Directory of a checkpoint.
        adapter: Directory of a LoRA adapter for the checkpoint.
        dtype: Dtype of the weights; "auto" means the checkpoint's dtype.
        device: Device of the weights; None for the first GPU, or the CPU if there is none.
    """

    checkpoint: Path
    adapter: Path | None = None
    dtype: DtypeName = "auto"
    device: str | None = None

    def read_file_stamps(self) -> tuple[FileStamp, ...]:
        """Return the path, size, mtime, ctime and inode of every file, to detect modified and replaced files."""
        folders = [self.checkpoint] if self.adapter is None else [self.checkpoint, self.adapter]
        files = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir()) if path.is_file()]
        found = [(str(path), path.stat()) for path in files]
        return tuple((name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for name, stat in found)


@dataclass(frozen=True, slots=True)
class ModelCacheEntry:
    """The model that a cache holds, and the arguments it was loaded with.

    Attributes:
        source: Arguments that the model was loaded with.
        stamps: State of the source's files when the load began.
        engine: Name of the engine that runs the model.
        variant: Settings that the engine was started with, if it loads the model itself.
        loaded: The model, or the engine that contains it.
    """

    source: ModelSource
    stamps: tuple[FileStamp, ...]
    engine: str
    variant: Hashable
    loaded: Any


class ModelCache:
    """Cache for the last loaded tokenizer and at most one model, which is released before another one is loaded.

    A model or tokenizer is reused only if none of its files has changed.

    Example:
        models = ModelCache()
        evaluate_perplexity(checkpoint, text, output, models=models)  # loads the model
        generate(checkpoint, requests, file, models=models)  # reuses it
    """

    def __init__(self) -> None:
        self.kept: ModelCacheEntry | None = None
        self._tokenizer: tuple[tuple[FileStamp, ...], BaichuanTokenizer] | None = None

    @classmethod
    @contextmanager
    def use_or_create(cls, models: Self | None) -> Iterator[Self]:
        """Yield `models`, or, if it is None, a new cache that releases its model when the `with` block ends."""
        if models is not None:
            yield models
            return
        temporary = cls()
        try:
            yield temporary
        finally:
            temporary.release()

    def load(self, source: ModelSource) -> BaichuanForCausalLM:
        """Return the model, prepacked for inference; load it unless it is cached.

        Raises:
            CheckpointError, AdapterMismatchError, UnsupportedError: See `load_model`.
        """

        def load_prepacked() -> BaichuanForCausalLM:
            model = load_model(source.checkpoint, dtype=source.dtype, device=source.device, adapter=source.adapter)
            return model.prepack()

        return self.get_or_start(source, NATIVE_ENGINE, load_prepacked)

    def load_tokenizer(self, checkpoint: Path) -> BaichuanTokenizer:
        """Return a checkpoint's tokenizer, cached because reading a published one takes about a second.

        Raises:
            TokenizerError, CheckpointError: See `load_tokenizer`.
        """
        stamps = ModelSource(checkpoint).read_file_stamps()
        if self._tokenizer is None or self._tokenizer[0] != stamps:
            self._tokenizer = stamps, load_tokenizer(checkpoint)
        return self._tokenizer[1]

    def get_or_start(self, source: ModelSource, engine: str, start: Callable[[], T], *, variant: Hashable = None) -> T:
        """Return the cached result if source, engine and variant match; otherwise call `start` and cache its result."""
        stamps = source.read_file_stamps()
        kept = self.kept
        key = (source, stamps, engine, variant)
        if kept is not None and (kept.source, kept.stamps, kept.engine, kept.variant) == key:
            return cast(T, kept.loaded)
        del kept
        self.release()
        loaded = start()
        self.kept = ModelCacheEntry(*key, loaded)
        return loaded

    def is_loaded(self, source: ModelSource) -> bool:
        """Return whether `load` would return the cached model."""
        kept = self.kept
        return (
            kept is not None
            and (kept.source, kept.engine) == (source, NATIVE_ENGINE)
            and kept.stamps == source.read_file_stamps()
        )

    def release(self) -> None:
        """Release the cached model and return unused memory to the system."""
        if self.kept is None:
            return
        # only engines that use memory outside torch's allocator have a `close` method
        close = getattr(self.kept.loaded, "close", None)
        self.kept = None
        if close is not None:
            close()
        release_memory()
