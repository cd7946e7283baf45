"""The leader's work besides dispatching: ending lost attempts, deleting unneeded files and expiring old data."""

from jobs.maintenance.bulk_operations import BulkOperations
from jobs.maintenance.cleaner import Cleaner
from jobs.maintenance.janitor import Janitor
from jobs.maintenance.reaper import reap
from jobs.maintenance.retention import Retention

__all__ = ["BulkOperations", "Cleaner", "Janitor", "Retention", "reap"]
