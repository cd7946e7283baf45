"""Models: the checkpoints and adapters that specs can name."""

from collections.abc import Iterator
from pathlib import PurePath

from baichuan_client import calls
from baichuan_client.schemas import Model
from baichuan_client.session import Session


class Models:
    """The models of the project."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def register(self, model_id: str, path: str | PurePath) -> Model:
        """Register a checkpoint or adapter directory as a model.

        Args:
            model_id: Id by which specs refer to the model.
            path: An absolute path on the server, under an allowed model root.
        """
        return self._session.call(calls.register_model(model_id, str(path)))

    def get(self, model_id: str) -> Model:
        """Return a model."""
        return self._session.call(calls.get_model(model_id))

    def list(self) -> Iterator[Model]:
        """Yield the models, sorted by id; pages are requested as needed."""
        return self._session.iterate(calls.list_models())

    def delete(self, model_id: str) -> None:
        """Delete an unused model; for a registered directory, only the registration is deleted."""
        self._session.send(calls.delete(calls.model_path(model_id)))
