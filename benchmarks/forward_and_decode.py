"""Compare forward passes and decode steps of 7B and 13B models with transformers' Llama of the same sizes.

The 7B model has the weights of the Llama, so both compute the same logits; the largest difference is printed.
"Prepacked" models are what our engine and evaluation use on a CPU (`model.prepack()`). For 13B, a second baseline is
the published method: a mask [heads, tokens, tokens] with the ALiBi bias, created in each call. Both sides alternate;
the result is the median of the ratios.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from baichuan_core import BaichuanConfig, BaichuanForCausalLM

ROWS, TOKENS = 2, 256
MANY_ROWS, FEW_TOKENS = 24, 8  # a decode step of a batch job
DTYPES = ("float32", "bfloat16", "float16")
SHAPE: dict[str, Any] = {
    "vocab_size": 16000,
    "hidden_size": 2048,
    "intermediate_size": 5504,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
}


class Row(NamedTuple):
    """One comparison: median seconds of both, and the median ratio of ours to theirs."""

    name: str
    ours: float
    theirs: float
    ratio: float


def llama(dtype: torch.dtype) -> LlamaForCausalLM:
    """Create a Llama with random weights."""
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(**SHAPE))
    ready: LlamaForCausalLM = model.to(dtype).eval()
    return ready


def baichuan(weights_of: LlamaForCausalLM, dtype: torch.dtype, **fields: Any) -> BaichuanForCausalLM:
    """Create a Baichuan model with the weights of a Llama."""
    settings = {"position_embedding": "rope", "norm_head": False, **fields}
    model: Any = BaichuanForCausalLM(BaichuanConfig(**SHAPE, **settings))
    weights = dict(weights_of.state_dict())
    for layer in range(SHAPE["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.self_attn."
        parts = [weights.pop(f"{prefix}{part}_proj.weight") for part in "qkv"]
        weights[f"{prefix}W_pack.weight"] = torch.cat(parts)
    model.to(dtype).load_state_dict(weights, assign=True)  # one copy of the weights for all models
    ready: BaichuanForCausalLM = model.eval()
    return ready


def forward(model: Any, ids: Tensor) -> Callable[[], Any]:
    """Return a function that computes all logits of a batch."""
    return lambda: model(ids, use_cache=False).logits


def prefill(model: Any, ids: Tensor) -> Callable[[], Any]:
    """Return a function that computes only the logits of the last token."""
    return lambda: model(ids, use_cache=False, logits_to_keep=1).logits


def decode(model: Any, ids: Tensor) -> Callable[[], Any]:
    """Return a function that decodes one token after a prompt and then crops the cache again."""
    cache = DynamicCache(config=model.config)
    model(ids, past_key_values=cache, logits_to_keep=1)

    def step() -> Any:
        logits = model(ids[:, -1:], past_key_values=cache).logits
        cache.crop(-1)
        return logits

    return step


def published_alibi(model: BaichuanForCausalLM, ids: Tensor) -> Callable[[], Any]:
    """Return a prefill like the published code: slope · key position per head, query and key, in the model's dtype."""
    heads, tokens = model.config.num_attention_heads, ids.shape[1]
    power = 2 ** (heads.bit_length() - 1)
    slopes = torch.tensor([2 ** (-8 * (head + 1) / power) for head in range(heads)], dtype=torch.float32)

    def run() -> Any:
        hidden_states = model.get_input_embeddings()(ids)
        bias = slopes[:, None, None] * torch.arange(tokens)[None, None, :].expand(1, tokens, tokens)
        mask = bias.to(hidden_states.dtype) + torch.full((tokens, tokens), -torch.inf).triu(1).to(hidden_states.dtype)
        for layer in model.model.layers:
            hidden_states = layer(hidden_states, attention_mask=mask[None])
        return model.compute_logits(model.model.norm(hidden_states)[:, -1:])

    return run


def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], turns: int) -> Row:
    """Time both functions alternately."""
    pairs = []
    for turn in range(turns + 1):
        first, second = (ours, theirs) if turn % 2 else (theirs, ours)
        spent = {id(run): _seconds(run) for run in (first, second)}
        if turn:  # the first turn is a warm-up
            pairs.append((spent[id(ours)], spent[id(theirs)]))
    mine, their = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Row(name, mine, their, statistics.median(a / b for a, b in pairs))


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare_all(dtype: torch.dtype, turns: int, long_tokens: int) -> Iterator[Row]:
    """Yield all comparisons in one dtype."""
    name = str(dtype).removeprefix("torch.")
    generator = torch.manual_seed(1)
    ids = torch.randint(3, SHAPE["vocab_size"], (ROWS, TOKENS), generator=generator)
    many = torch.randint(3, SHAPE["vocab_size"], (MANY_ROWS, FEW_TOKENS), generator=generator)
    long = torch.randint(3, SHAPE["vocab_size"], (1, long_tokens), generator=generator)
    stock = llama(dtype)
    plain, normalized = baichuan(stock, dtype), baichuan(stock, dtype, norm_head=True)
    alibi = baichuan(stock, dtype, position_embedding="alibi")
    difference = (forward(plain, ids)() - forward(stock, ids)()).abs().max()
    print(f"{name}: logits of the 7B model and Llama differ by at most {difference:.2e}")
    models = {"7B": plain, "7B with NormHead": normalized, "13B": alibi}
    prepacked = {f"{family}, prepacked": deepcopy(model).prepack() for family, model in models.items()}
    for family, model in (models | prepacked).items():
        steps = f"{name} decode step, {family} against Llama"
        yield compare(steps, decode(model, ids), decode(stock, ids), 8 * turns)
        batch = f"{name} decode step of {MANY_ROWS} rows, {family} against Llama"
        yield compare(batch, decode(model, many), decode(stock, many), 2 * turns)
        whole = f"{name} forward {ROWS}x{TOKENS}, {family} against Llama"
        yield compare(whole, forward(model, ids), forward(stock, ids), turns)
    published = f"{name} prefill of {long_tokens}, 13B against the published mask"
    yield compare(published, prefill(alibi, long), published_alibi(alibi, long), max(turns // 3, 2))


@torch.no_grad()
def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--long", type=int, default=2048, help="tokens of the long prefill")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=DTYPES[:2])
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    for dtype in arguments.dtypes:
        for row in compare_all(getattr(torch, dtype), arguments.turns, arguments.long):
            print(
                f"{row.name:80} {row.ours * 1e3:9.2f} ms {row.theirs * 1e3:9.2f} ms  ratio {row.ratio:.3f}", flush=True
            )


if __name__ == "__main__":
    main()
