"""First-start setup: the database schema and the first administrator key."""

from jobs.database import Database
from jobs.service import keys
from jobs.settings import Settings

DEFAULT_PROJECT = "default"


def prepare_deployment(settings: Settings, secret: str | None = None) -> str | None:
    """Migrate the database; if it has no key yet, create an administrator key and return its secret.

    Args:
        settings: Settings of the deployment.
        secret: The secret to use for the key; if None, one is generated.
    """
    # Only the service's user may read the directory, because it contains prompts.
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    for root in settings.allowed_model_roots:
        if not settings.model_roots:
            root.mkdir(parents=True, exist_ok=True)
    database = Database(settings.effective_database_url)
    try:
        database.migrate()
        with database.writing() as connection:
            if keys.list_page(connection, after=None, limit=1):
                return None
            chosen = secret or keys.new_secret()
            keys.create(connection, project=DEFAULT_PROJECT, name="first key", role="admin", secret=chosen)
            return chosen
    finally:
        database.close()
