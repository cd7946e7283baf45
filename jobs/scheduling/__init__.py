"""Pure functions that decide which job runs where, given a snapshot of the waiting jobs and the machines."""

from jobs.scheduling.explanation import Explanation, Holder, describe_missing_packages, explain
from jobs.scheduling.loaded_model import LoadedModel, find_source
from jobs.scheduling.machine import Device, Holding, Machine, Reservation, Resident, Room
from jobs.scheduling.placement import NodePlacement, Placement, PlacementRound, WaitingJob, place
from jobs.scheduling.requirement import Requirement

__all__ = [
    "Device",
    "Explanation",
    "Holder",
    "Holding",
    "LoadedModel",
    "Machine",
    "NodePlacement",
    "Placement",
    "PlacementRound",
    "Requirement",
    "Reservation",
    "Resident",
    "Room",
    "WaitingJob",
    "describe_missing_packages",
    "explain",
    "find_source",
    "place",
]
