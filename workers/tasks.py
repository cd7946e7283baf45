"""Handles the messages that arrive through Celery."""

from celery import Celery

from jobs.transport import TASK
from workers.execution import Execution


def install(app: Celery, execution: Execution) -> None:
    """Register the handler of the only message with the application."""

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def run_attempt(attempt_id: str) -> None:
        execution.run(attempt_id)
