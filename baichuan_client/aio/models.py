"""The asynchronous counterpart of `baichuan_client.models`."""

from collections.abc import AsyncIterator
from pathlib import PurePath

from baichuan_client import calls
from baichuan_client.aio.session import AsyncSession
from baichuan_client.schemas import Model


class AsyncModels:
    """The models of the project; see `baichuan_client.models.Models`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def register(self, model_id: str, path: str | PurePath) -> Model:
        """Register a checkpoint or adapter directory as a model; see `Models.register`."""
        return await self._session.call(calls.register_model(model_id, str(path)))

    async def get(self, model_id: str) -> Model:
        """Return a model."""
        return await self._session.call(calls.get_model(model_id))

    def list(self) -> AsyncIterator[Model]:
        """Yield the models, sorted by id; pages are requested as needed."""
        return self._session.iterate(calls.list_models())

    async def delete(self, model_id: str) -> None:
        """Delete an unused model; for a registered directory, only the registration is deleted."""
        await self._session.send(calls.delete(calls.model_path(model_id)))
