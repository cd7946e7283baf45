"""What the leader does besides dispatching: it deletes what is recorded as unneeded, and what is too old."""

from jobs.maintenance.cleaner import Cleaner
from jobs.maintenance.janitor import Janitor
from jobs.maintenance.retention import Retention

__all__ = ["Cleaner", "Janitor", "Retention"]
