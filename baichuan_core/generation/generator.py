"""A model that stays loaded and answers requests as they arrive, for notebooks, chats and files of requests."""

import copy
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from baichuan_core.checkpoint import NATIVE_ENGINE, ModelCache, ModelSource, read_config
from baichuan_core.config import DEFAULT_CONTEXT_LENGTH, BaichuanConfig
from baichuan_core.errors import UnsupportedError
from baichuan_core.generation.encoding import RequestEncoder
from baichuan_core.generation.engines.capacity import compute_capacity, compute_serving_capacity
from baichuan_core.generation.engines.choice import (
    EngineChoice,
    choose_engine,
    create_engine,
    reject_unsupported_requests,
)
from baichuan_core.generation.engines.contract import EncodedRequest, Engine, EngineSetup
from baichuan_core.generation.engines.native.engine import NativeEngine
from baichuan_core.generation.engines.native.lanes import MultiLaneEngine
from baichuan_core.generation.engines.outputs import Completion, StepOutputs, TextDelta
from baichuan_core.generation.open_batch import OpenBatch
from baichuan_core.generation.options import GenerationDefaults, GenerationOptions
from baichuan_core.generation.requests import GenerationRequest
from baichuan_core.generation.streams import CompletionStream, list_events
from baichuan_core.model import BaichuanForCausalLM
from baichuan_core.tokenizer import BaichuanTokenizer, choose_chat_format, read_generation_settings


class TextGenerator:
    """A text generator for one checkpoint. The model is loaded on the first request, or by `load`.

    All requests, from all methods and threads, run in one batch; each gets the answer that it would get alone.
    `open_lane` opens another batch on the same model.

    Attributes:
        tokenizer: The checkpoint's tokenizer.
        choice: The engine that runs the model, and the reason for this choice.
        chat_format: The chat format of the checkpoint.
    """

    def __init__(
        self,
        checkpoint: Path | str,
        options: GenerationOptions | None = None,
        *,
        adapter: Path | str | None = None,
        models: ModelCache | None = None,
    ) -> None:
        """Read the configuration and the tokenizer, and choose an engine. The weights are loaded later.

        Args:
            checkpoint: Directory of a checkpoint, which may be quantized.
            options: Options that override the checkpoint's defaults; individual requests may override them in turn.
            adapter: Directory of a LoRA adapter for this checkpoint.
            models: Keeps the model loaded for later operations, and may have loaded it already.

        Raises:
            CheckpointError: Files of the checkpoint are missing or damaged, or contain invalid settings.
            TokenizerError: The checkpoint has no tokenizer.
            UnsupportedError: No engine can run the checkpoint on this machine, or the requested engine cannot.
        """
        checkpoint = Path(checkpoint)
        config = read_config(checkpoint)
        options = options or GenerationOptions()
        self._defaults = defaults = GenerationDefaults.from_checkpoint(checkpoint)
        self._owns_models = models is None
        self._models = models or ModelCache()
        self.tokenizer: BaichuanTokenizer = self._models.load_tokenizer(checkpoint)
        self.setup = EngineSetup(
            checkpoint=checkpoint,
            config=config,
            settings=defaults.fill_options(options),
            end_token_ids=_choose_end_token_ids(self.tokenizer, config, defaults),
            adapter=None if adapter is None else Path(adapter),
        )
        self.choice: EngineChoice = choose_engine(self.setup)
        self._window = config.model_max_length or DEFAULT_CONTEXT_LENGTH
        self.chat_format = choose_chat_format(self.tokenizer, config, read_generation_settings(checkpoint))
        self._encoder = self._create_encoder(options)
        self._lane = 0  # index of this generator's open batch; above 0 if `open_lane` created the generator
        self._batch: OpenBatch | None = None
        self._loading = threading.Lock()

    def open_lane(self, options: GenerationOptions) -> "TextGenerator":
        """Load the model, and return a generator whose requests run in a separate open batch on it.

        The two batches take turns, one step each, so requests in one do not wait for room in the other. The new
        generator can be used until this one is closed; closing the new one has no effect.

        Args:
            options: Options of the new generator; the engine, dtype and device remain those of this one.

        Raises:
            CheckpointError: The weights or the adapter cannot be used.
            UnsupportedError: The engine is not the native one; other engines reserve their memory when they start.
        """
        batch = self._load_batch()
        if not isinstance(batch.engine, MultiLaneEngine):
            raise UnsupportedError(
                f"the engine {self.choice.name} supports only one open batch; use the engine {NATIVE_ENGINE}"
            )
        lane = copy.copy(self)
        settings = self._defaults.fill_options(options)
        lane.setup = replace(
            self.setup, settings=replace(settings, dtype=self.setup.settings.dtype, device=self.setup.settings.device)
        )
        lane._encoder = lane._create_encoder(options)
        lane._lane = batch.engine.add_lane(lane._create_native_engine(batch.engine.model))
        return lane

    def load(self) -> Engine:
        """Load the model if it is not loaded yet. llama.cpp and vLLM load it only on the first request.

        Raises:
            CheckpointError: The weights or the adapter cannot be used.
            UnsupportedError: The dtype or device is not available on this machine.
        """
        return self._load_batch().engine

    def close(self) -> None:
        """Free the model's memory, unless a `ModelCache` was passed. Unfinished requests fail.

        The next request loads the model again.
        """
        if self._lane:
            return
        with self._loading:
            if self._batch is not None and (self.choice.name == NATIVE_ENGINE or self._owns_models):
                self._batch.close()
            self._batch = None
            if self._owns_models:
                self._models.release()

    def encode(self, requests: Sequence[GenerationRequest]) -> list[EncodedRequest]:
        """Encode requests, see `RequestEncoder.encode`.

        Raises:
            PromptError: A request cannot be answered; the message names it.
            UnsupportedError: The engine does not support a parameter of a request; the message names it.
        """
        encoded = self._encoder.encode(requests)
        reject_unsupported_requests(self.choice.name, encoded)
        return [replace(one, lane=self._lane) for one in encoded] if self._lane else encoded

    def submit(self, request: GenerationRequest) -> CompletionStream:
        """Add a request to the running batch, and return a stream of the generated text. Any thread may call this.

        This returns immediately if the model is already loaded. The keys and values of a chat are kept as long as there
        is room, so that the next turn of the chat starts where this one ended.

        Raises:
            PromptError: The request cannot be answered.
            UnsupportedError: The engine does not support a parameter of the request; the message names it.
            CheckpointError: The weights or the adapter cannot be used.
        """
        encoded = self.encode([request])
        if request.messages is not None:
            encoded = [replace(one, may_continue=True) for one in encoded]
        capacity = compute_serving_capacity(self._window, self.setup.settings)
        feed = self._load_batch().submit(encoded, stream=True, capacity=capacity)
        return CompletionStream(feed, prompt_tokens=len(encoded[0].prompt_ids))

    def run(self, requests: Sequence[EncodedRequest], *, stream: bool = False) -> Iterator[StepOutputs]:
        """Answer encoded requests in whatever order is fastest. The model is loaded when this returns.

        Args:
            requests: The requests.
            stream: Whether each step contains the text generated in it.

        Returns:
            An iterator over the steps in which at least one of the requests advanced. Closing it cancels the requests.

        Raises:
            CheckpointError: The weights or the adapter cannot be used, or the model produces NaN.
            UnsupportedError: A completion does not fit in memory, even if it runs alone.
        """
        if not requests:
            return iter(())
        feed = self._load_batch().submit(
            requests, stream=stream, capacity=compute_capacity(requests, self.setup.settings)
        )
        feed.wait_until_added()
        return iter(feed)

    def complete(self, requests: Sequence[GenerationRequest]) -> list[Completion]:
        """Answer requests and return all completions, ordered by request and sample.

        Raises:
            PromptError: A request cannot be answered; the message names it.
            CheckpointError: The model produces NaN.
        """
        steps = self.run(self.encode(requests))
        return sorted((one for step in steps for one in step.completions), key=lambda one: (one.index, one.sample))

    def stream(self, requests: Sequence[GenerationRequest]) -> Iterator[TextDelta | Completion]:
        """Yield the text of all requests as it is generated, and each completion once it is finished.

        Raises:
            PromptError: A request cannot be answered; the message names it, and nothing has been generated.
            CheckpointError: The model produces NaN.
        """
        return _iterate_events(self.run(self.encode(requests), stream=True))

    def _load_batch(self) -> OpenBatch:
        with self._loading:
            if self._batch is None:
                self._batch = self._start_batch()
            return self._batch

    def _start_batch(self) -> OpenBatch:
        """Start the engine. The native engine shares its model with other operations; other engines load their own."""
        setup, settings, name = self.setup, self.setup.settings, self.choice.name
        source = ModelSource(setup.checkpoint, setup.adapter, settings.dtype, settings.device)
        if name == NATIVE_ENGINE:
            return OpenBatch(MultiLaneEngine(self._create_native_engine(self._models.load(source))))
        variant = (settings.batch_size, settings.batch_tokens, setup.end_token_ids)
        return self._models.get_or_start(
            source, name, lambda: OpenBatch(create_engine(name, setup, self.tokenizer)), variant=variant
        )

    def _create_encoder(self, options: GenerationOptions) -> RequestEncoder:
        vocab_size = self.setup.config.vocab_size
        return RequestEncoder(self.tokenizer, options, self._defaults, self._window, vocab_size, self.chat_format)

    def _create_native_engine(self, model: BaichuanForCausalLM) -> NativeEngine:
        return NativeEngine(model, self.tokenizer, self.setup.settings, self.setup.end_token_ids)


def _iterate_events(steps: Iterator[StepOutputs]) -> Iterator[TextDelta | Completion]:
    for step in steps:
        yield from list_events(step)


def _choose_end_token_ids(
    tokenizer: BaichuanTokenizer, config: BaichuanConfig, defaults: GenerationDefaults
) -> frozenset[int]:
    """Return the end tokens from `generation_config.json`, else the list in `config.json`, else the tokenizer's."""
    ids = defaults.eos_token_id
    if ids is None:
        ids = config.eos_token_id if isinstance(config.eos_token_id, list) else tokenizer.eos_token_id
    return frozenset(ids if isinstance(ids, list) else [ids])
