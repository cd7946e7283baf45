"""Field types shared by the results."""

import math
from typing import Annotated, Any

from pydantic import BeforeValidator

from jobs.specs.fields import StrictModel


def _replace_non_finite(value: Any) -> Any:
    """Replace NaN and infinity, which JSON cannot represent, with None."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


FiniteFloat = Annotated[float | None, BeforeValidator(_replace_non_finite)]  # null if the number is not finite
Metric = Annotated[int | float | None, BeforeValidator(_replace_non_finite)]


class Result(StrictModel):
    """Base class for all results; `kind` is the job's kind."""
