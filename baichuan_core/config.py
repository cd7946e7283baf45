"""The configuration of all four families: Baichuan 1 and 2, each in a 7B (RoPE) and a 13B (ALiBi) layout."""

from typing import Any, ClassVar

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from checkpoint_files import (
    PositionEmbedding,
    clean_fields,
    clean_file_fields,
    infer_norm_head,
    infer_position_embedding,
    unknown_head_message,
)

DEFAULT_CONTEXT_LENGTH = 4096
PUBLISHED_PAD_TOKEN_ID = 0
# Keys in published configurations that do not describe the model: code to run and trainer settings.
IGNORED_KEYS = ("auto_map", "gradient_checkpointing", "_from_model_config")
SIZE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "model_max_length",
)
LENGTH_FIELDS = ("max_position_embeddings", "model_max_length")  # if one of them is None, the other's value is used
# Fields that other tools may write in different formats, and fields from which the family is inferred.
CLEANED_FIELDS = (
    *SIZE_FIELDS,
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "position_embedding",
    "norm_head",
    "quantize_head",
    "tie_word_embeddings",
    "z_loss_weight",
    "architectures",
)


class BaichuanConfig(PreTrainedConfig):
    """Configuration of a Baichuan model; reads the published `config.json` of every family.

    Published configurations specify neither the position embedding nor whether the head is normalized, so both are
    inferred (see `checkpoint_files.family`): the position embedding from the width and the length fields; the head from
    the vocabulary, class names and `z_loss_weight`. An explicit `position_embedding` or `norm_head` takes precedence,
    and both are always saved. If nothing indicates `norm_head`, it is None and must be set to create a model.

    Attributes:
        position_embedding: "rope" or "alibi".
        norm_head: Whether rows of `lm_head.weight` are normalized to L2 norm 1 before use.
        max_position_embeddings: Context length in tokens; by default equal to `model_max_length`.
        model_max_length: Context length in tokens, under the name that the 13B configurations use.
        rope_parameters: transformers' RoPE settings; `rope_theta` is 10000 by default.
        quantize_head: Whether the embedding and the head are stored in 8 bits; true only for quantized models.
        z_loss_weight: Weight of mean(max logit squared) in the training loss (Baichuan 2), usually 0.
    """

    model_type: ClassVar[str] = "baichuan"
    tokenizer_class: ClassVar[str] = "BaichuanTokenizer"  # used for directories without tokenizer_config.json
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 64000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    hidden_act: str = "silu"
    max_position_embeddings: int | None = None
    model_max_length: int | None = None
    position_embedding: PositionEmbedding | None = None
    norm_head: bool | None = None
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    use_cache: bool = True
    pad_token_id: int | None = PUBLISHED_PAD_TOKEN_ID
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    rope_parameters: dict[str, Any] | None = None
    z_loss_weight: float | None = None
    quantize_head: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        fields = clean_fields({**kwargs, **{name: getattr(self, name) for name in CLEANED_FIELDS}})
        fields["position_embedding"] = infer_position_embedding(fields)
        fields["norm_head"] = infer_norm_head(fields)
        for name in CLEANED_FIELDS:
            setattr(self, name, fields.pop(name))
        self._check_sizes()
        if self.pad_token_id is not None and not 0 <= self.pad_token_id < self.vocab_size:
            self.pad_token_id = PUBLISHED_PAD_TOKEN_ID  # the model has no embedding for the given token
        context_length = self.max_position_embeddings or self.model_max_length or DEFAULT_CONTEXT_LENGTH
        self.max_position_embeddings = self.max_position_embeddings or context_length
        self.model_max_length = self.model_max_length or context_length
        if self.z_loss_weight is not None:
            self.z_loss_weight = float(self.z_loss_weight)
        known = {key: value for key, value in fields.items() if key not in IGNORED_KEYS}
        super().__post_init__(**known)  # type: ignore[no-untyped-call]
        self._check_fields()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Create a configuration as transformers does, but accept field formats that other tools write."""
        return super().from_dict(clean_file_fields(config_dict), **kwargs)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def num_key_value_heads(self) -> int:
        """Number of key-value heads; one per attention head, because no family uses grouped-query attention."""
        return self.num_attention_heads

    def check(self) -> None:
        """Reject configurations that no Baichuan model can have, and those without `norm_head`.

        Raises:
            ValueError: The message contains the field and its valid values.
        """
        if self.norm_head is None:
            raise ValueError(unknown_head_message(self.vocab_size))
        self._check_fields()

    def _check_sizes(self) -> None:
        for name in SIZE_FIELDS:
            size = getattr(self, name)
            if size is None and name in LENGTH_FIELDS:
                continue
            if type(size) is not int or size < 1:
                raise ValueError(f"{name} is {size!r}: it must be a positive integer")

    def _check_fields(self) -> None:
        self._check_sizes()
        if self.position_embedding not in ("rope", "alibi"):
            raise ValueError(f'position_embedding is {self.position_embedding!r}: use "rope" or "alibi"')
        if self.norm_head not in (True, False, None):
            raise ValueError(f"norm_head is {self.norm_head!r}: use true or false")
        for name in ("quantize_head", "tie_word_embeddings"):
            if getattr(self, name) not in (True, False):
                raise ValueError(f"{name} is {getattr(self, name)!r}: use true or false")
        if self.quantize_head and self.tie_word_embeddings:
            raise ValueError("quantize_head and tie_word_embeddings are both true: an 8-bit head cannot be tied")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f'hidden_act is {self.hidden_act!r}, which transformers does not support: use "silu"')
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.position_embedding == "rope":
            self._check_rope()

    def _check_rope(self) -> None:
        parameters = self.rope_parameters or {}
        kinds = ("default", *ROPE_INIT_FUNCTIONS)
        if parameters.get("rope_type") not in kinds or parameters.get("rope_theta") is None:
            raise ValueError(
                f"rope_parameters is {parameters}: set rope_theta, and set rope_type to one of {', '.join(kinds)}"
            )
        theta = parameters["rope_theta"]
        if type(theta) not in (int, float) or theta <= 0:
            raise ValueError(f"rope_theta is {theta!r}: it must be a number above 0")
        if self.head_dim % 2:
            raise ValueError(
                f"head_dim is {self.head_dim}, but RoPE requires an even number: change num_attention_heads"
            )

    def to_diff_dict(self) -> dict[str, Any]:
        """Return the fields to save: those of published files, plus explicit `position_embedding` and `norm_head`."""
        saved: dict[str, Any] = super().to_diff_dict()
        saved["position_embedding"] = self.position_embedding
        saved["norm_head"] = self.norm_head
        if self.position_embedding == "alibi":
            # Match the published 13B configurations, which have only `model_max_length` and no RoPE fields.
            saved.pop("max_position_embeddings", None)
            saved.pop("rope_parameters", None)
        return saved
