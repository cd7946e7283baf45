"""llama.cpp's server, alone in a process. It is run by this file's path: importing the package would import torch.

Its stdin says in one line of JSON what to serve. It answers in one line: the address, or that it cannot load the model.
It ends with its stdin, which the system closes however the parent ends.
"""

import json
import os
import signal
import sys
from typing import Any

import xllamacpp

QUIET = -1


def main() -> None:
    """Serve until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print is not an answer
    try:
        server = xllamacpp.Server(parameters(json.loads(sys.stdin.readline())))
    except RuntimeError as error:
        print(json.dumps({"refusal": str(error)}), file=answers, flush=True)
    else:
        print(json.dumps({"address": server.listening_address}), file=answers, flush=True)
        sys.stdin.read()
    os._exit(0)  # whatever it is computing


def parameters(settings: dict[str, Any]) -> Any:
    """Of llama.cpp, from what the parent wants."""
    chosen = xllamacpp.CommonParams()
    chosen.model.path = settings["model"]
    chosen.n_parallel = settings["slots"]
    chosen.n_ctx = settings["slots"] * settings["slot_tokens"]
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = settings["threads"]
    chosen.n_gpu_layers = 0
    chosen.cache_ram_mib = 0  # it would keep the states of up to 8 GiB of old prompts
    chosen.warmup = False
    chosen.verbosity = QUIET
    chosen.api_keys = [settings["key"]]
    chosen.ui = False
    chosen.chat_template = "chatml"  # prompts come as ids; a template of the file that llama.cpp cannot read stops it
    return chosen


if __name__ == "__main__":
    main()
