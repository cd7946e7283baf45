"""Connections never wait forever, and logs do not contain users' data."""

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError

from jobs.database import OUTAGE_ERRORS, Database
from jobs.repository import jobs
from tests.jobs.conftest import Deployment


def with_option(deployment: Deployment, option: str) -> Database:
    """The deployment's database, with an option of PostgreSQL in its URL."""
    url = sa.make_url(deployment.settings.effective_database_url).update_query_dict({"options": f"-c {option}"})
    return Database(url.render_as_string(hide_password=False))


@pytest.mark.integration
def test_a_lock_is_waited_for_up_to_the_limit(postgresql_url: str) -> None:
    database = Database(postgresql_url)
    with database.reading() as connection:
        assert connection.execute(sa.text("SHOW lock_timeout")).scalar_one() == "5s"
    database.close()


@pytest.mark.integration
@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_lock_that_is_never_released_is_an_outage(deployment: Deployment) -> None:
    job = deployment.submit()
    impatient = with_option(deployment, "lock_timeout=50")
    with deployment.database.writing() as holder:
        jobs.lock(holder, job.id)
        with pytest.raises(OperationalError), impatient.writing() as connection:
            jobs.lock(connection, job.id)
    impatient.close()


@pytest.mark.integration
@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_process_that_stops_within_a_transaction_loses_its_locks(deployment: Deployment) -> None:
    job = deployment.submit()
    stopped = with_option(deployment, "idle_in_transaction_session_timeout=50")
    patient = with_option(deployment, "lock_timeout=0")

    def stop_and_go_on() -> None:
        with stopped.writing() as holder:
            jobs.lock(holder, job.id)
            with patient.writing() as connection:
                assert jobs.lock(connection, job.id) is not None
            jobs.lock(holder, job.id)

    with pytest.raises(OUTAGE_ERRORS):
        stop_and_go_on()
    stopped.close()
    patient.close()


def test_errors_do_not_contain_data_of_users(database: Database) -> None:
    with pytest.raises(DBAPIError) as caught, database.reading() as connection:
        connection.execute(sa.text("SELECT * FROM nowhere WHERE prompt = :prompt"), {"prompt": "confidential"})
    assert "confidential" not in str(caught.value)
