"""Pure functions that decide which job runs where, given a snapshot of the waiting jobs and the machines."""

from jobs.scheduling.explanation import Explanation, ResourceHolder, describe_missing_packages, explain_wait
from jobs.scheduling.loaded_model import LoadedModel, find_source
from jobs.scheduling.machine import Device, FreeCapacity, HeldResources, Machine, Reservation, ResidentRunner
from jobs.scheduling.placement import NodePlacement, Placement, PlacementRound, WaitingJob, place_jobs
from jobs.scheduling.requirement import Requirement

__all__ = [
    "Device",
    "Explanation",
    "FreeCapacity",
    "HeldResources",
    "LoadedModel",
    "Machine",
    "NodePlacement",
    "Placement",
    "PlacementRound",
    "Requirement",
    "Reservation",
    "ResidentRunner",
    "ResourceHolder",
    "WaitingJob",
    "describe_missing_packages",
    "explain_wait",
    "find_source",
    "place_jobs",
]
