"""A model that stays loaded and answers requests as they come: for notebooks, chats and runs over files."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from baichuan_core.checkpoint import NATIVE, ModelKeeper, ModelSource, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig
from baichuan_core.generation.encoding import Encoder
from baichuan_core.generation.engines.choice import EngineChoice, choose_engine, start_engine
from baichuan_core.generation.engines.contract import Completion, EncodedRequest, Engine, EngineSetup, Step, TextDelta
from baichuan_core.generation.engines.native.engine import NativeEngine
from baichuan_core.generation.options import GenerationDefaults, GenerationOptions
from baichuan_core.generation.requests import GenerationRequest
from baichuan_core.tokenizer import BaichuanTokenizer, choose_chat_format, read_generation_settings


class TextGenerator:
    """Answers requests with one checkpoint. The model is loaded with the first of them, or by `load`.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        choice: The engine that runs the model, and why.
        chat_format: How the checkpoint writes chats.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        options: GenerationOptions | None = None,
        *,
        adapter: Path | str | None = None,
        models: ModelKeeper | None = None,
    ) -> None:
        """Looks at everything but the weights.

        Args:
            checkpoint: Directory of a checkpoint, quantized ones included.
            options: What differs from the checkpoint's own defaults; requests may differ further.
            adapter: Directory of a LoRA adapter for this checkpoint.
            models: Keeps the model loaded for later operations, and may have it already.

        Raises:
            CheckpointError: Its files are missing, damaged or hold what cannot be used.
            TokenizerError: It has no tokenizer.
            UnsupportedError: No engine can run it here, or the one asked for cannot.
        """
        checkpoint = Path(checkpoint)
        config = read_config(checkpoint)
        options = options or GenerationOptions()
        defaults = GenerationDefaults.of(checkpoint)
        self._models = models or ModelKeeper()
        self.tokenizer: BaichuanTokenizer = self._models.load_tokenizer(checkpoint)
        self.setup = EngineSetup(
            checkpoint=checkpoint,
            config=config,
            settings=defaults.complete(options),
            end_token_ids=_end_token_ids(self.tokenizer, config, defaults),
            adapter=None if adapter is None else Path(adapter),
        )
        self.choice: EngineChoice = choose_engine(self.setup)
        window = config.model_max_length or DEFAULT_CONTEXT_LENGTH
        self.chat_format = choose_chat_format(self.tokenizer, config, read_generation_settings(checkpoint))
        self._encoder = Encoder(self.tokenizer, options, defaults, window, self.chat_format)
        self._engine: Engine | None = None

    def load(self) -> Engine:
        """Loads the model if it is not there yet.

        Raises:
            CheckpointError: The weights or the adapter cannot be used.
            UnsupportedError: The dtype or device does not exist here.
        """
        if self._engine is None:
            self._engine = self._start()
        return self._engine

    def _start(self) -> Engine:
        """Start the engine. The native one shares its model with evaluations; others load the model themselves."""
        setup, settings, name = self.setup, self.setup.settings, self.choice.name
        source = ModelSource(setup.checkpoint, setup.adapter, settings.dtype, settings.device)
        if name == NATIVE:
            return NativeEngine(self._models.load(source), self.tokenizer, settings, setup.end_token_ids)
        variant = (settings.batch_size, settings.batch_tokens, setup.end_token_ids)
        return self._models.keep(source, name, lambda: start_engine(name, setup, self.tokenizer), variant=variant)

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        """See `Encoder.encode`."""
        return self._encoder.encode(requests)

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[Step]:
        """See `Engine.run`."""
        return self.load().run(requests, stream=stream)

    def complete(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """All completions, in the order of the requests and their samples.

        Raises:
            PromptError: A request cannot be answered; the message names it.
            CheckpointError: The model computes NaN.
        """
        steps = self.run(self.encode(requests))
        return sorted((one for step in steps for one in step.completions), key=lambda one: (one.index, one.sample))

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[TextDelta | Completion]:
        """Text as it comes, of all requests side by side, and each completion once it is whole.

        Raises:
            PromptError: A request cannot be answered; the message names it. Nothing was generated then.
            CheckpointError: The model computes NaN.
        """
        return _events(self.run(self.encode(requests), stream=True))


def _events(steps: Iterator[Step]) -> Iterator[TextDelta | Completion]:
    for step in steps:
        yield from step.deltas
        yield from step.completions


def _end_token_ids(
    tokenizer: BaichuanTokenizer, config: BaichuanConfig, defaults: GenerationDefaults
) -> frozenset[int]:
    """Return the end tokens of ``generation_config.json``, else a list in ``config.json``, else the tokenizer's."""
    ids = defaults.eos_token_id
    if ids is None:
        ids = config.eos_token_id if isinstance(config.eos_token_id, list) else tokenizer.eos_token_id
    return frozenset(ids if isinstance(ids, list) else [ids])
