"""What arrives over Celery."""

from celery import Celery

from jobs.transport import TASK
from workers.execution import Execution


def install(app: Celery, execution: Execution) -> None:
    """Make the application answer the one message that there is."""

    @app.task(name=TASK)  # type: ignore[untyped-decorator]
    def run_attempt(attempt_id: str) -> None:
        execution.run(attempt_id)
