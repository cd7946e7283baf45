"""The leader's work besides dispatching: ending lost attempts, deleting unneeded files and expiring old data."""

from jobs.maintenance.bulk_operations import BulkOperationRunner
from jobs.maintenance.cleaner import Cleaner
from jobs.maintenance.janitor import Janitor
from jobs.maintenance.reaper import reap_overdue_attempts
from jobs.maintenance.retention import RetentionPass

__all__ = ["BulkOperationRunner", "Cleaner", "Janitor", "RetentionPass", "reap_overdue_attempts"]
