"""Importing this module silences two bitsandbytes warnings that users cannot act on."""

import logging

# Silence the import-time warning about a missing faster CPU kernel, which bitsandbytes would download from a hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# Silence the warning about casting inputs to float16, which is logged for every int8 layer at every step.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
