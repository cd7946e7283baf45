"""The properties of a model that determine how much memory a job on it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from footprint import Dtype, ModelShape, Precision, ShapeError


@dataclass(frozen=True, slots=True)
class ModelProperties:
    """The shape of a checkpoint and the precision of its weights."""

    shape: ModelShape
    precision: Precision

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> Self | None:
        """Create a `ModelProperties` from the details of a registered model; return None if they are incomplete."""
        try:
            return cls(ModelShape.from_config(details), Precision(**details["precision"]))
        except (ShapeError, KeyError, TypeError):
            return None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Create a `ModelProperties` from a `config.json`.

        Raises:
            ShapeError: The configuration does not describe a Baichuan model.
        """
        return cls(ModelShape.from_config(config), Precision.from_config(config))

    def loaded_precision(self, dtype: Dtype | Literal["auto"]) -> Precision:
        """Return the precision of the weights once loaded with this dtype; "auto" is the checkpoint's own."""
        return self.precision if dtype == "auto" else replace(self.precision, dtype=dtype)
