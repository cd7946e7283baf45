"""The entry point (group ``vllm.general_plugins``) that every process of vLLM calls as it starts.

With this package installed, vLLM of its own runs Baichuan checkpoints too: ``vllm serve DIRECTORY``, without
``trust_remote_code``. Importing this module has registered the configuration and the tokenizer with transformers.
"""

ARCHITECTURES = ("BaichuanForCausalLM", "BaiChuanForCausalLM")
MODEL = "baichuan_core.generation.engines.vllm.model:BaichuanForCausalLM"


def register() -> None:
    """Names our model to vLLM; it is imported when a checkpoint wants it."""
    from vllm import ModelRegistry  # noqa: PLC0415 - heavy, and rarely there

    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, MODEL)
