"""Engines that answer encoded requests in an open batch; their interface is in `contract`."""
