"""Importing this module silences two warnings of bitsandbytes that users cannot act on."""

import logging

# Silence the warning, logged at import, that a faster CPU kernel, which bitsandbytes downloads from a hub, is missing.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# Silence the warning, logged for every int8 layer at every step, that inputs are cast to float16.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
