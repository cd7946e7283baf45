"""Prepares the database schema and the API key of a deployment for `up` and `init`."""

from dataclasses import dataclass

from alembic.util import CommandError as MigrationError
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from cli.deployment_settings import read_deployment_settings
from cli.errors import CommandError
from cli.exit_codes import ExitCode
from jobs.bootstrap import DEFAULT_PROJECT, prepare_deployment
from jobs.database import Database
from jobs.errors import AuthenticationError, InvalidRequestError
from jobs.service import keys
from jobs.settings import Settings


def prepare_database_and_key(settings: Settings, known: str | None, given: str | None = None) -> str:
    """Migrate the database, and return an API key that it accepts.

    Args:
        settings: The deployment.
        known: The key from an earlier start; another one is created if the database does not accept it.
        given: The key that the user has chosen, instead of `known`; it is stored if the database does not have it.

    Raises:
        CommandError: the database cannot be used, or the given key is too weak or was revoked.
    """
    made = _prepare_database(settings, given or known)
    if made:
        return made
    if given:
        return given if is_valid_key(settings, given) else add_key(settings, given, "key of baichuan up")
    if known and is_valid_key(settings, known):
        return known
    return add_key(settings, keys.new_secret(), "key of baichuan up")


def _prepare_database(settings: Settings, secret: str | None) -> str | None:
    """Migrate the database; if it has no key yet, create one and return its secret.

    Raises:
        CommandError: the database cannot be migrated, or the secret is too weak.
    """
    try:
        return prepare_deployment(settings, secret)
    except InvalidRequestError as error:
        raise CommandError(f"BAICHUAN_API_KEY: {error}", ExitCode.USAGE) from error
    except MigrationError as error:
        message = f"the database cannot be migrated: {error}; a newer version or another program created it"
        raise CommandError(message) from error
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise CommandError(f"the database cannot be used: {reason}; start it, or correct DATABASE_URL") from error


def is_valid_key(settings: Settings, secret: str) -> bool:
    """Return whether the database accepts this key."""
    database = Database(settings.effective_database_url)
    try:
        with database.reading() as connection:
            return not isinstance(keys.authenticate(connection, [secret])[0], AuthenticationError)
    finally:
        database.close()


def add_key(settings: Settings, secret: str, name: str) -> str:
    """Store another administrator key.

    Raises:
        CommandError: the key has been revoked.
    """
    database = Database(settings.effective_database_url)
    try:
        with database.writing() as connection:
            keys.create(connection, project=DEFAULT_PROJECT, name=name, role="admin", secret=secret)
    except InvalidRequestError as error:
        raise CommandError(f"BAICHUAN_API_KEY: {error}", ExitCode.USAGE) from error
    except IntegrityError:
        raise CommandError("this API key was revoked; choose another BAICHUAN_API_KEY") from None
    finally:
        database.close()
    return secret


@dataclass(frozen=True, slots=True)
class InitResult:
    """The result of `init`; `shown` is a new secret that the user has not yet seen."""

    created: bool
    shown: str | None


def initialize_deployment(given: str | None) -> InitResult:
    """Migrate the database and ensure that a key exists: the given one, or any key if none is given.

    Raises:
        CommandError: the given key has been revoked.
    """
    settings = read_deployment_settings()
    made = _prepare_database(settings, given)
    if made or given is None:
        return InitResult(created=made is not None, shown=None if given else made)
    if is_valid_key(settings, given):
        return InitResult(created=False, shown=None)
    add_key(settings, given, "key of baichuan init")
    return InitResult(created=True, shown=None)
