"""Importing this module silences two messages of bitsandbytes that no user can act on."""

import logging

# At import: that it works without a faster kernel, which it would load from a hub.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
# At every int8 layer of every step: that it computes in float16.
logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
