"""The leader's work besides dispatching: ends lost attempts, deletes unneeded files, expires old data."""

from jobs.maintenance.bulk_operations import BulkOperations
from jobs.maintenance.cleaner import Cleaner
from jobs.maintenance.janitor import Janitor
from jobs.maintenance.reaper import reap
from jobs.maintenance.retention import Retention

__all__ = ["BulkOperations", "Cleaner", "Janitor", "Retention", "reap"]
