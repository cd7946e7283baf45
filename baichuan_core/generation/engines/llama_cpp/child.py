"""A process that runs llama.cpp's server. It is started by file path, because importing the package would import torch.

It reads its settings from stdin as one line of JSON, and responds on stdout with one line: the server's address, or the
reason why the model cannot be loaded. It exits when stdin closes, which also happens whenever its parent process ends.
"""

import json
import os
import signal
import sys
from typing import Any

import xllamacpp

SILENT_VERBOSITY = -1


def main() -> None:
    """Run the server until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # make libraries print to stderr, so that stdout contains only our response
    try:
        server = xllamacpp.Server(make_parameters(json.loads(sys.stdin.readline())))
    except RuntimeError as error:
        print(json.dumps({"refusal": str(error)}), file=answers, flush=True)
    else:
        print(json.dumps({"address": server.listening_address}), file=answers, flush=True)
        sys.stdin.read()
    os._exit(0)  # exit without waiting for running computations


def make_parameters(settings: dict[str, Any]) -> Any:
    """Build llama.cpp's parameters from the settings that the parent sent."""
    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * settings["slot_tokens"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    params.n_gpu_layers = 0
    params.cache_ram_mib = 0  # the default would keep up to 8 GiB of keys and values from old prompts
    params.warmup = False
    params.verbosity = SILENT_VERBOSITY
    params.api_keys = [settings["key"]]
    params.ui = False
    # This template is never used, because prompts are token ids. By default, the server would parse the file's own
    # template, and might fail if it is invalid.
    params.chat_template = "chatml"
    return params


if __name__ == "__main__":
    main()
