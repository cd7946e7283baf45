"""Generate completions for prompts or conversations."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from footprint import Footprint, inference, max_kept_prefix_tokens
from jobs.specs.fields import WITHOUT_NUL, Dtype, FileId, ModelName, Seed, StrictModel
from jobs.specs.job_spec import JobSpec
from jobs.specs.known_model import KnownModel
from jobs.specs.suitability import AdapterUse, ChosenModel, Misfit

BATCH_TOKENS = 16_384  # maximum tokens that run at once, as in `baichuan_core.generation`

Text = Annotated[str, StringConstraints(min_length=1, max_length=200_000), WITHOUT_NUL]


class Message(StrictModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, StringConstraints(max_length=200_000), WITHOUT_NUL]


class GenerateSpec(JobSpec):
    """Complete prompts, or answer conversations, given inline or as an uploaded JSONL file."""

    produces_model: ClassVar[bool] = False
    runs_gguf: ClassVar[bool] = True
    input_fields: ClassVar[tuple[str, ...]] = ("prompts", "conversations", "input_file")

    kind: Literal["generate"]
    adapter: ModelName | None = Field(None, description="A LoRA adapter model to apply to `model`")
    prompts: list[Text] | None = Field(None, min_length=1, max_length=1000)
    conversations: list[Annotated[list[Message], Field(min_length=1, max_length=200)]] | None = Field(
        None, min_length=1, max_length=1000
    )
    input_file: FileId | None = Field(
        None,
        description='JSONL, one {"prompt": …} or {"messages": […]} per line; a line may have its own `id`,'
        " `max_new_tokens` (or `max_tokens`), `temperature`, `top_k`, `top_p`, `seed`, `stop` and `n`;"
        " lines in OpenAI's batch format are used too, and any other key is an error",
    )
    max_new_tokens: int = Field(256, ge=1, le=8192)
    temperature: float | None = Field(None, ge=0, le=2, description="0 is greedy; the model's own by default")
    top_k: int | None = Field(None, ge=0, le=1000)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    stop: list[Annotated[str, StringConstraints(min_length=1, max_length=64), WITHOUT_NUL]] = Field(
        default_factory=list, max_length=8
    )
    seed: Seed = 0
    n: int = Field(1, ge=1, le=128, description="Completions of each request, each with noise of its own")
    logprobs: int | None = Field(
        None, ge=0, le=20, description="Report the logarithm of each token's probability and of so many alternatives"
    )
    engine: Literal["auto", "transformers", "vllm", "llama_cpp"] = Field(
        "auto", description="What runs the model; auto takes the fastest that can, and the result says which and why"
    )
    batch_size: int = Field(32, ge=1, le=256, description="Most completions that are written side by side")
    dtype: Dtype = "auto"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in self.input_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of prompts, conversations and input_file; found {found}")
        return self

    def model_references(self) -> dict[str, str]:
        """See `JobSpec.model_references`."""
        adapter = {"adapter": self.adapter} if self.adapter else {}
        return {"model": self.model, **adapter}

    def file_references(self) -> dict[str, str]:
        """See `JobSpec.file_references`."""
        return {"input_file": self.input_file} if self.input_file else {}

    @property
    def loaded_dtype(self) -> Dtype:
        """See `JobSpec.loaded_dtype`."""
        return self.dtype

    @property
    def adapter_use(self) -> AdapterUse:
        """See `JobSpec.adapter_use`."""
        return AdapterUse.OPTIONAL

    def find_misfit(self, model: ChosenModel) -> Misfit | None:
        """See `JobSpec.find_misfit`; of the engines' conditions, those that no machine changes."""
        if model.is_gguf:
            return self._find_gguf_misfit(has_adapter=model.has_adapter)
        if self.engine == "llama_cpp":
            return Misfit("engine", "is not a GGUF file, which llama_cpp runs; leave engine out")
        if self.engine == "vllm" and (model.has_adapter or model.is_quantized):
            has = "has an adapter" if model.has_adapter else "is quantized"
            return Misfit("engine", f"{has}, which the engine vllm does not run; leave engine out")
        return None

    def _find_gguf_misfit(self, *, has_adapter: bool) -> Misfit | None:
        if has_adapter:
            return Misfit("adapter", "is a GGUF file, which takes no adapter; merge the adapter, then convert to gguf")
        if self.engine not in ("auto", "llama_cpp"):
            return Misfit("engine", f"is a GGUF file, which the engine {self.engine} does not run; leave engine out")
        if self.dtype != "auto":
            return Misfit("dtype", "is a GGUF file, which has its own dtype; leave dtype out")
        return None

    def footprints(self, model: KnownModel, *, on_gpu: bool = True) -> Sequence[Footprint]:  # noqa: ARG002 - the same anywhere
        """See `JobSpec.footprints`."""
        window = model.shape.context_length
        prompts = [min(window, tokens) for tokens in self._prompts(window)]
        tokens = min(window, max(prompts) + self.max_new_tokens)
        rows = max(1, min(self.batch_size, len(prompts), BATCH_TOKENS // tokens))
        shared = max_kept_prefix_tokens(prompts, batch_tokens=BATCH_TOKENS)
        return [inference(model.shape, model.loaded(self.dtype), batch=rows, tokens=tokens, shared=shared)]

    def _prompts(self, unknown: int) -> list[int]:
        """Return the maximum prompt tokens of each completion; a character is rarely more than one token."""
        if self.prompts is not None:
            return [len(prompt) for prompt in self.prompts] * self.n
        if self.conversations is not None:
            return [sum(len(turn.content) + 1 for turn in turns) for turns in self.conversations] * self.n
        return [unknown] * self.batch_size
