"""Our own parameter `baichuan`: fields of a job's spec for which OpenAI's API has no parameter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.validation import to_field_errors
from jobs.errors import DomainError, InvalidRequestError
from jobs.specs import JobSpec

EXTENSION_NAME = "baichuan"
SpecT = TypeVar("SpecT", bound=JobSpec)


class Extension(BaseModel):
    """The parameters in `extra_body={"baichuan": {...}}`; undeclared ones are fields of the job's spec."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    dry_run: bool = Field(default=False, description="Create nothing; return what the job would require")
    quantization: Literal["int8", "nf4", "fp4"] | None = Field(
        None, description="Use the newest model that was made from `model` by quantizing it this way"
    )

    @property
    def spec_fields(self) -> dict[str, Any]:
        """The spec fields that the client sets through the extension."""
        return dict(self.model_extra or {})


@dataclass(frozen=True, slots=True)
class SpecFields:
    """The mapping from a request's parameters to the fields of a spec.

    Attributes:
        given: Values by field, from parameters of OpenAI's API.
        names: The parameter that sets each field, if its name differs from the field's.
        protected: Fields that the extension cannot set, mapped to the parameters that set them, if any.
    """

    given: Mapping[str, Any]
    names: Mapping[str, str]
    protected: Mapping[str, str | None]

    def build_spec(self, kind: type[SpecT], extension: Extension) -> SpecT:
        """Build the spec from the request's parameters and the extension.

        Raises:
            InvalidRequestError: A field is unknown or has a wrong value; the error names the parameter.
        """
        for name in extension.spec_fields:
            if name not in kind.model_fields:
                raise InvalidRequestError(
                    "there is no such field; remove it or correct its name", param=f"{EXTENSION_NAME}.{name}"
                )
            if name in self.protected:
                remedy = f"use {parameter} instead" if (parameter := self.protected[name]) else "remove it"
                raise InvalidRequestError(f"cannot be set here; {remedy}", param=f"{EXTENSION_NAME}.{name}")
        try:
            return kind.model_validate({**extension.spec_fields, **self.given})
        except ValidationError as error:
            first = to_field_errors(error.errors())[0]
            raise InvalidRequestError(first.message, param=self.find_parameter(first.param)) from None

    def find_parameter(self, field: str | None) -> str:
        """Return the parameter that sets a field; the field may be a dotted path."""
        if field is None:
            return EXTENSION_NAME
        root, dot, rest = field.partition(".")
        return self.names.get(root, root if root in self.given else f"{EXTENSION_NAME}.{root}") + dot + rest

    def rename_param(self, error: DomainError, kind: type[JobSpec]) -> DomainError:
        """Replace the spec field that an error names with the parameter that sets it, and return the error."""
        if error.param is not None and error.param.partition(".")[0] in kind.model_fields:
            error.param = self.find_parameter(error.param)
        return error
