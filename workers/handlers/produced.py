"""The model that a handler has written."""

from jobs.models.directories import inspect
from jobs.service.attempts import ProducedModel
from workers.handlers.contract import MODEL_FOLDER, Context


def produced_model(context: Context) -> ProducedModel:
    """What is in the output's model folder, told from its files.

    Raises:
        InvalidRequestError: it is no complete checkpoint or adapter.
    """
    found = inspect(context.model_output)
    return ProducedModel(MODEL_FOLDER, found.kind, found.details)
