"""Parses JSON bodies strictly: duplicate fields and NaN are rejected."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from jobs.errors import DomainError, InvalidRequestError
from jobs.inputs import DuplicateKeyFinder

STRING_OR_CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)')


class JsonRoute(APIRoute):
    """A route that parses its JSON body strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap FastAPI's handler to restore the strict parser's errors, which FastAPI replaces with its own."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_strict_request(request: Request) -> Response:
            try:
                return await handle(_StrictRequest(request.scope, request.receive))
            except HTTPException as error:
                if isinstance(error.__cause__, DomainError):
                    raise error.__cause__ from None
                raise

        return handle_strict_request


class OpenAIRoute(JsonRoute):
    """A route of OpenAI's API, which responds with 400 where our own routes respond with 422."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the handler to set a flag that `api.errors` reads."""
        handle = super().get_route_handler()

        async def handle_for_openai(request: Request) -> Response:
            request.state.answers_400 = True
            return await handle(request)

        return handle_for_openai


class _StrictRequest(Request):
    async def json(self) -> Any:
        body = await self.body()
        duplicates = DuplicateKeyFinder()

        def reject_constant(name: str) -> NoReturn:
            text = body.decode(json.detect_encoding(body), "surrogatepass")
            position = next(match.start() for match in STRING_OR_CONSTANT.finditer(text) if match[1])
            raise json.JSONDecodeError(f"write a number or null instead of {name}", text, position)

        content = json.loads(body, object_pairs_hook=duplicates.read_object, parse_constant=reject_constant)
        if duplicates.name is not None:
            message = f"{duplicates.name!r} is given more than once in the same object; keep only one"
            raise InvalidRequestError(message, param=duplicates.path)
        return content
