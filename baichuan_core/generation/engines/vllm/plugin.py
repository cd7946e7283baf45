"""The entry point (group `vllm.general_plugins`) that every vLLM process calls when it starts.

If this package is installed, `vllm serve DIRECTORY` can serve Baichuan checkpoints without `trust_remote_code`.
Importing this module also registers the configuration and the tokenizer with transformers.
"""

ARCHITECTURES = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
MODEL_CLASS = "baichuan_core.generation.engines.vllm.model:BaichuanForCausalLM"


def register() -> None:
    """Register our model with vLLM, which imports it when a checkpoint needs it."""
    from vllm import ModelRegistry  # noqa: PLC0415 - slow, and rarely installed

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, MODEL_CLASS)
