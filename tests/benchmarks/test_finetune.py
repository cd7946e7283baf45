"""The fine-tuning benchmark at tiny shapes: all variants and the published script learn the same."""

import pytest

from benchmarks import finetune


@pytest.mark.slow
def test_every_variant_of_our_model_has_the_published_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = {"vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    monkeypatch.setattr(finetune, "SHAPE", finetune.SHAPE | tiny | {"norm_head": True})
    results = {method: finetune.measure(method, steps=2, batch=2, real=None) for method in finetune.METHODS}
    losses = [results[method].loss for method in finetune.METHODS if method != "stock Llama"]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)
    assert all(figures.rate > 0 for figures in results.values())
    table = finetune.format_table({method: [figures] for method, figures in results.items()})
    assert len(table.splitlines()) == 2 + len(finetune.METHODS)
