"""Engines that process encoded requests in an open batch; `contract` defines their interface."""
