"""Describes the model that a handler has written."""

from jobs.models.directories import inspect_directory
from jobs.service.attempts import ProducedModel
from workers.handlers.contract import MODEL_FOLDER, HandlerContext


def describe_produced_model(context: HandlerContext) -> ProducedModel:
    """Return a description of the model in the output folder, inferred from its files.

    Raises:
        InvalidRequestError: The folder does not contain a complete checkpoint or adapter.
    """
    found = inspect_directory(context.model_output)
    return ProducedModel(MODEL_FOLDER, found.kind, found.details)
