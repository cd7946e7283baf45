"""Handles the messages that arrive through Celery."""

from celery import Celery

from jobs.transport import TASK_NAME
from workers.execution import AttemptExecutor


def register_task(app: Celery, execution: AttemptExecutor) -> None:
    """Register the application's only task, which runs an attempt."""

    @app.task(name=TASK_NAME)  # type: ignore[untyped-decorator]
    def run_attempt(attempt_id: str) -> None:
        execution.run(attempt_id)
