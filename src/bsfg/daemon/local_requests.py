"""The values of one request to the local API, each taken by its type."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping
from typing import Any, Final, NoReturn

from aiohttp import web

from bsfg.errors import BsfgError, Code

DIGITS_MAX: Final = 19
DEADLINE_SECONDS: Final = 25.0
Answer = dict[str, Any]


async def answer(
    request: web.Request, result: Awaitable[Any], seconds: float = DEADLINE_SECONDS
) -> web.Response:
    """The result as JSON; ``timed_out`` if it is not there in time."""
    try:
        async with asyncio.timeout(seconds):
            return web.json_response(await result)
    except TimeoutError:
        raise BsfgError(
            Code.TIMED_OUT,
            f"{request.method} {request.path}: not done within {seconds:.0f} s; what it began may still take effect",
        ) from None


class Parameters:
    """The named values of one request: each is taken by its type, and what nobody took is ``unknown_field``."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    @classmethod
    def of_query(cls, request: web.Request) -> Parameters:
        names = [name for name, _ in request.query.items()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BsfgError(Code.INVALID_REQUEST, f"{request.path}: {twice!a} is given twice")
        return cls(request.query)

    @classmethod
    async def of_body(cls, request: web.Request) -> Parameters:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                values = json.loads(await request.read())
        except TimeoutError:
            raise BsfgError(Code.TIMED_OUT, f"{request.path}: the body did not arrive") from None
        except (ValueError, RecursionError) as error:
            raise BsfgError(Code.INVALID_REQUEST, f"{request.path}: the body is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise BsfgError(Code.INVALID_REQUEST, f"{request.path}: the body is not a JSON object")
        return cls(values)

    def text(self, name: str) -> str:
        text = self.text_or_none(name)
        if not text:
            raise BsfgError(Code.INVALID_REQUEST, f"{name} is missing")
        return text

    def text_or_none(self, name: str) -> str | None:
        value = self._values.pop(name, None)
        return value if value is None or isinstance(value, str) else reject(name, value, "text")

    def integer_or_none(self, name: str) -> int | None:
        value = self._values.pop(name, None)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= DIGITS_MAX:
            value = int(value)
        if value is None or (type(value) is int and value >= 0):
            return value
        return reject(name, value, "a whole number of 0 or more")

    def number_or_none(self, name: str) -> float | None:
        value = self._values.pop(name, None)
        if value is None:
            return None
        if type(value) in (int, float) and 0 <= value < float("inf"):
            return float(value)
        return reject(name, value, "a number of 0 or more")

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._values.pop(name, default)
        if value in ("0", "1"):
            return bool(value == "1")
        return value if isinstance(value, bool) else reject(name, value, "true or false (in a query 1 or 0)")

    def objects(self, name: str) -> list[Answer]:
        value = self._values.pop(name, None)
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return value
        return reject(name, value, "a list of objects")

    def finish(self) -> None:
        """Every value was taken, else ``unknown_field``."""
        if self._values:
            name = next(iter(self._values))
            raise BsfgError(Code.UNKNOWN_FIELD, f"{name!a} is not a field of this request", field=name)


def reject(name: str, value: Any, wanted: str) -> NoReturn:
    raise BsfgError(Code.INVALID_REQUEST, f"{name} is not {wanted} but {type(value).__name__}")
