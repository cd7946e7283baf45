"""Detects a machine's computing resources without importing torch."""

from workers.inventory.declared import DeclaredDevice, read_declaration
from workers.inventory.host import read_host_resources
from workers.inventory.nvml import Nvml
from workers.inventory.packages import find_packages
from workers.inventory.report import Inventory

__all__ = ["DeclaredDevice", "Inventory", "Nvml", "find_packages", "read_declaration", "read_host_resources"]
