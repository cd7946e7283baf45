"""What importing the package loads and registers, each in a fresh interpreter."""

import subprocess
import sys

import pytest

import baichuan_core

HEAVY = "{name for name in ('torch', 'transformers', 'peft', 'bitsandbytes') if name in sys.modules}"
KNOWN = """
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
config = CONFIG_MAPPING["baichuan"]
print(*(auto._model_mapping[config].__name__ for auto in (AutoModel, AutoModelForCausalLM)))
"""


def run(code: str) -> str:
    """Run the code in a new interpreter and return what it prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize(
    "module",
    [
        "baichuan_core",
        "baichuan_core.errors",
        "baichuan_core.progress",
        "baichuan_core.out_of_memory",
        "workers.__main__",
        "workers.runner",
    ],
)
def test_errors_progress_and_the_worker_load_no_torch(module: str) -> None:
    assert run(f"import {module}, sys; print({HEAVY})") == "set()"


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import baichuan_core",
        "import transformers, baichuan_core",
        "import baichuan_core, transformers.modeling_utils",
        "import baichuan_core.config",
        "import baichuan_core.tokenizer.chat",
        "from baichuan_core.generation.engines.vllm import plugin",
    ],
)
def test_transformers_knows_the_family_after_any_import_of_the_package(first: str) -> None:
    assert run(first + KNOWN) == "BaichuanModel BaichuanForCausalLM"


def test_a_failed_import_does_not_prevent_registration() -> None:
    failing = (
        "import sys, baichuan_core\n"
        "sys.modules['torch'] = None\n"
        "try:\n    import baichuan_core.model\n"
        "except ImportError:\n    print('failed')\n"
        "del sys.modules['torch']\n"
        "for name in [name for name in sys.modules if name.startswith('transformers')]:\n    del sys.modules[name]\n"
    )
    assert run(failing + KNOWN).split("\n") == ["failed", "BaichuanModel BaichuanForCausalLM"]


def test_every_public_name_exists() -> None:
    for name in baichuan_core.__all__:
        assert getattr(baichuan_core, name) is not None
    assert set(baichuan_core.__all__) <= set(dir(baichuan_core))
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        baichuan_core.absent  # noqa: B018
