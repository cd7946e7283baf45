"""The Baichuan decoder and its language modeling head, as native classes of transformers 5."""

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from baichuan_core.config import BaichuanConfig

from .alibi import AlibiColumns, add_alibi, compute_alibi_columns, compute_alibi_slopes, find_query_positions
from .chat import ChatMixin
from .chunked_loss import LossTargets, compute_logits_loss, select_positions
from .eight_bit_embedding_and_head import create_embedding, create_output_head, require_eight_bit_weights
from .head import HeadNormCache, compute_head_loss
from .layers import BaichuanAttention, BaichuanDecoderLayer, BaichuanRMSNorm
from .leftover_settings import remove_leftover_settings
from .masks import make_causal_mask
from .positions import BaichuanRotaryEmbedding
from .prepacked import prepack
from .published_int4 import reject_published_int4
from .quantization import OnlineQuantizationMixin, keep_four_bit_scales, rebind_int8_codes, unpack_four_bits

# Up to this number of queries, the ALiBi bias is added to the mask, which is still small. The alternative, extra
# columns, would copy all keys in the cache.
MAX_QUERIES_FOR_BIAS_IN_MASK = 16


class BaichuanPreTrainedModel(PreTrainedModel):
    """Base class with the attributes and methods that transformers requires of every Baichuan model."""

    config_class = BaichuanConfig
    config: BaichuanConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BaichuanDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    # Baichuan 1 7B stores these buffers although the configuration determines them.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]
    _supports_sdpa = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        "hidden_states": BaichuanDecoderLayer,
        "attentions": BaichuanAttention,
    }

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Return `is_activation_checkpointing`; peft reads this older name, for which transformers logs a warning."""
        return bool(self.is_activation_checkpointing)

    def _init_weights(self, module: nn.Module) -> None:
        require_eight_bit_weights(module)
        super()._init_weights(module)  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as transformers does, with two differences.

        A 4-bit model keeps its exact scales, so that saving it after a forward pass on a CPU loses no precision.
        Quantization settings that a tool left in the configuration of unquantized weights are ignored, as in
        `load_model`.

        Raises:
            CheckpointError: The checkpoint is in the published 4-bit format, which transformers cannot read.
        """
        directory = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        reject_published_int4(directory)
        if (config := remove_leftover_settings(directory, kwargs.get("config"))) is not None:
            kwargs["config"] = config
        loaded = super().from_pretrained(*args, **kwargs)
        keep_four_bit_scales(
            loaded[0] if isinstance(loaded, tuple) else loaded
        )  # a tuple if output_loading_info is set
        return loaded

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save a model as transformers does, including quantized models.

        transformers 5.23 would try to undo the conversions that quantized tensors underwent during loading, which is
        impossible. Undoing them is not needed either, because the tensors already have their published names.
        """
        super().save_pretrained(save_directory, *args, **{"save_original_format": False, **kwargs})

    def cuda(self, device: int | torch.device | None = None) -> Self:  # type: ignore[override]
        """Move the model to a GPU; unlike `to`, transformers' own `cuda` rejects 8-bit models."""
        target: Any = torch.device("cuda", device) if isinstance(device, int) else device or "cuda"
        return cast("Self", self.to(target))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply `fn` as torch does, and then make bitsandbytes' layers use the moved 8-bit codes."""
        unpack_four_bits(self)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for module in self.modules():
            rebind_int8_codes(module)
        return self


class BaichuanModel(BaichuanPreTrainedModel):
    """Embedding, blocks and final norm, which map `input_ids` [batch, seq] to hidden states [batch, seq, hidden]."""

    def __init__(self, config: BaichuanConfig) -> None:
        config.check()  # check again, because from_pretrained sets fields after creating the configuration
        super().__init__(config)
        self.embed_tokens = create_embedding(config)
        self.layers = nn.ModuleList(BaichuanDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = BaichuanRotaryEmbedding(config) if config.position_embedding == "rope" else None
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults  # type: ignore[untyped-decorator]
    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the decoder.

        Args:
            input_ids: Token ids [batch, seq]; alternatively, pass `inputs_embeds` [batch, seq, hidden].
            attention_mask: [batch, past + seq]; 0 means padding, and tokens of a packed example share a number.
            position_ids: [batch, seq]; used only for RoPE, because ALiBi counts the keys between two tokens.
            past_key_values: The cache, which is updated in place.
            use_cache: Whether to return a cache; a new one is created if none is passed.
            **kwargs: Passed on to the attention implementation; `attention` is a function that replaces it.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is required: pass one of them")
        hidden_states: Tensor = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        if position_ids is None:
            past = past_key_values.get_seq_length() if past_key_values is not None else 0
            position_ids = torch.arange(hidden_states.shape[1], device=hidden_states.device)[None] + past
        rotation = alibi = None
        if self.rotary_emb is not None:
            mask = make_causal_mask(self.config, hidden_states, attention_mask, past_key_values, position_ids)
            rotation = self.rotary_emb(hidden_states, position_ids)
        else:
            mask, alibi = self._make_alibi_mask(hidden_states, attention_mask, past_key_values, position_ids)
        for layer in self.layers:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                rotation=rotation,
                alibi=alibi,
                past_key_values=past_key_values,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), past_key_values=past_key_values)

    def _make_alibi_mask(
        self, hidden_states: Tensor, attention_mask: Tensor | None, cache: Cache | None, position_ids: Tensor
    ) -> tuple[Tensor | None, AlibiColumns | None]:
        """Return either a mask that includes the bias, or a mask without it and the columns that add the bias."""
        queries, device = hidden_states.shape[1], hidden_states.device
        slopes = compute_alibi_slopes(self.config.num_attention_heads, device)
        in_columns = queries > MAX_QUERIES_FOR_BIAS_IN_MASK and self.config._attn_implementation == "sdpa"
        mask = make_causal_mask(
            self.config, hidden_states, attention_mask, cache, position_ids, may_be_implied=in_columns
        )
        if not in_columns:
            return None if mask is None else add_alibi(mask, slopes, hidden_states.dtype), None
        if mask is not None:
            query_positions, keys = find_query_positions(mask), mask.shape[-1]
        else:  # plain causal attention from the first key
            query_positions = torch.arange(queries, device=device)[None]
            keys = cache.get_mask_sizes(queries, 0)[0] if cache is not None else queries
        return mask, compute_alibi_columns(slopes, query_positions, keys, self.config.head_dim**-0.5, hidden_states)


class BaichuanForCausalLM(BaichuanPreTrainedModel, OnlineQuantizationMixin, ChatMixin, GenerationMixin):
    """The decoder with its output head, plain (Baichuan 1) or normalized (Baichuan 2)."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    # generate() calls this function to create the masks for a static cache.
    create_masks_for_generate = staticmethod(make_causal_mask)

    if TYPE_CHECKING:
        # transformers annotates `self` of this method with a protocol that even its own models do not satisfy.
        def generate(self, inputs: Tensor | None = None, **settings: Any) -> Any: ...  # type: ignore[override]

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.lm_head = create_output_head(config)
        self._head_norms = HeadNormCache()
        self.register_state_dict_pre_hook(unpack_four_bits)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the next token at every position.

        Args:
            input_ids: See `BaichuanModel.forward`, also for the arguments that are not described here.
            labels: [batch, seq], -100 for positions that are not trained on; they are shifted here, so they may equal
                `input_ids`.
            logits_to_keep: Number of last positions to compute logits for; 0 for all.
            **kwargs: `num_items_in_batch` and `shift_labels` for the loss; `skip_logits` to return the loss without
                logits, which then never exist for all positions at once (the default in training if there are labels);
                all other arguments are passed on to the attention implementation.

        Returns:
            Logits [batch, seq, vocab] unless they are skipped, the loss if there are labels, and the cache.
        """
        skip_logits: bool = kwargs.pop("skip_logits", self.training)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        loss = logits = None
        if skip_logits and labels is not None:
            states, targets = self._select_positions(outputs.last_hidden_state, labels, **kwargs)
            norms = self._head_norms if self.config.norm_head else None
            loss = compute_head_loss(self.lm_head, states, targets, vocabulary=self.config.vocab_size, norms=norms)
        else:
            decoding = outputs.last_hidden_state.shape[1] == 1 and past_key_values is not None
            last = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
            logits = self.compute_logits(last, decoding=decoding)
            if labels is not None:
                loss = compute_logits_loss(*self._select_positions(logits, labels, **kwargs))
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def train(self, mode: bool = True) -> "BaichuanForCausalLM":
        """Switch between training and evaluation, and recompute the norms of the head on next use."""
        self._head_norms.clear()
        return cast("BaichuanForCausalLM", super().train(mode))

    def prepack(self) -> Self:
        """Rearrange weights that are on the CPU for its fastest kernels; weights on other devices stay unchanged.

        This pays off before many forward passes: passes over few rows take between a fifth and half of the time. If the
        processor has no kernels for a half-precision dtype, passes over many rows convert one slice of a weight after
        another to float32 and take a seventh of the time. Memory use stays the same. A prepacked model can only be used
        for inference.

        Returns:
            The model itself.
        """
        prepack(self)
        return self

    def compute_logits(self, hidden_states: Tensor, *, decoding: bool = False) -> Tensor:
        """Apply only the output head, for callers that choose which hidden states need logits.

        Args:
            hidden_states: Last hidden states [..., hidden], as returned by `self.model`.
            decoding: Whether this is one of many steps with unchanged weights, so that the head norms of the previous
                step can be reused (see `HeadNormCache`).

        Returns:
            Logits [..., vocab] in the dtype of the head, normalized if the configuration sets `norm_head`.
        """
        if self.config.norm_head:
            return self._head_norms.compute_logits(self.lm_head, hidden_states, decoding=decoding)
        logits: Tensor = self.lm_head(hidden_states)
        return logits

    def _select_positions(
        self,
        states: Tensor,
        labels: Tensor,
        num_items_in_batch: Tensor | int | None = None,
        shift_labels: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, LossTargets]:
        """Return the hidden states or logits [positions, ...] that contribute to the loss, and their targets."""
        if shift_labels is None:
            states, shift_labels = states[:, :-1], labels[:, 1:]
        return select_positions(
            states, shift_labels, items_in_batch=num_items_in_batch, z_loss_weight=self.config.z_loss_weight or 0.0
        )
