"""Importing this module silences two warnings of bitsandbytes that users cannot act on."""

import logging

# The warning, at import, that a faster CPU kernel, which bitsandbytes downloads from a hub, is not available.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# The warning, for every int8 layer at every step, that inputs are cast to float16.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
