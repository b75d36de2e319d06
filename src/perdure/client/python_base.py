"""What the classes of a generated client in Python derive from; it holds this word for word."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import quote

import httpx

from perdure.client.python_values import from_json, plain, to_json
from perdure.client.transport import (
    PROBLEM_TYPE,
    ProblemDocument,
    ServerCall,
    Transport,
    local_problem,
    new_key,
    query_text,
)
from perdure.client.unset import UNSET


class ApiError(Exception):
    """What the server refused or could not do; the classes below tell why.

    `kind` never changes its meaning, `status` is HTTP's, the text is for people, and `problem` is
    the whole document (RFC 9457). What has no class of its own here is an ApiError with its kind.
    """

    kind: str = "internal"
    by_kind: ClassVar[dict[str, type[ApiError]]] = {}

    def __init__(self, problem: ProblemDocument) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or "")
        self.problem = problem
        self.kind = str(problem.get("type", "")).removeprefix(PROBLEM_TYPE)
        self.status = int(problem.get("status", 500))

    def __init_subclass__(cls) -> None:
        ApiError.by_kind.setdefault(cls.kind, cls)


class Actor:
    """The address of an actor; `Client.at` makes one."""

    _path: ClassVar[str]

    def __init__(self, transport: Transport, key: str, request_id: str | None) -> None:
        self._transport = transport
        self._prefix = f"{self._path}/{quote(key, safe='')}/"
        self._request_id = request_id

    async def _call(
        self, name: str, arguments: Mapping[str, object], result: Any, *, is_read: bool = False
    ) -> Any:
        key = None if is_read else self._request_id or new_key()
        call = ServerCall(
            method="POST",
            path=self._prefix + name,
            query={},
            body=to_json(arguments),
            idempotency_key=key,
            is_read=is_read,
        )
        return await _result_of(self._transport, call, result)

    def _watch(self, name: str, arguments: Mapping[str, object], result: Any) -> AsyncIterator[Any]:
        query = _query_of(arguments)
        read = partial(_read, result=result)
        return self._transport.values(self._prefix + name, query, read, _error_of)


ActorClass = TypeVar("ActorClass", bound=Actor)


class BaseClient:
    """Connections to the server.

        async with Client("http://localhost:8000") as client:
            ...

    A call of an actor's method that changes something has an idempotency key, and is sent again
    under the same key while its connection is lost or the server says 502, 503 or 504. So are
    reads, GET, PUT and DELETE. What a POST or PATCH of a plain function may have done is not sent
    again.

    Args:
        url: of the server; `https://example.com/shop` if its paths begin with `/shop`.
        token: sent as `Authorization: Bearer …`.
        headers: sent with each request.
        timeout_s: the longest a call may take, with all its attempts and the pauses between them.
        attempts_max: how often a call is sent at most.
        http: use this client, which stays open, instead of one made here.

    Raises ValueError if the URL is none, or a bound is not above zero.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 60.0,
        attempts_max: int = 10,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        self._transport = Transport(
            url,
            token=token,
            headers=headers,
            timeout_s=timeout_s,
            attempts_max=attempts_max,
            http=http,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def at(self, actor: type[ActorClass], key: str, *, request_id: str | None = None) -> ActorClass:
        """The address of the actor of this class with this key.

        Args:
            request_id: the idempotency key of the next call, instead of a new one: for a call that
                this program may have begun before it was started anew.
        """
        return actor(self._transport, key, request_id)

    async def _call(
        self, method: str, path: str, arguments: Mapping[str, object], result: Any
    ) -> Any:
        in_body = method in {"POST", "PUT", "PATCH"}
        call = ServerCall(
            method=method,
            path=path,
            query={} if in_body else _query_of(arguments),
            body=to_json(arguments) if in_body else None,
        )
        return await _result_of(self._transport, call, result)


async def _result_of(transport: Transport, call: ServerCall, result: Any) -> Any:
    return _read(json.loads(await transport.call(call, _error_of)), result)


def _read(data: Any, result: Any) -> Any:
    try:
        return from_json(data, result)
    except (KeyError, TypeError, ValueError) as error:
        text = f"the answer does not fit its type; is this client older than the server? {error!r}"
        problem = local_problem(500, "unencodable", "Internal error", text)
        raise _error_of(problem) from error


def _error_of(problem: ProblemDocument) -> ApiError:
    kind = str(problem.get("type", "")).removeprefix(PROBLEM_TYPE)
    return ApiError.by_kind.get(kind, ApiError)(problem)


def _query_of(arguments: Mapping[str, object]) -> dict[str, Any]:
    return {
        name: plain(value)
        for name, value in arguments.items()
        if value is not UNSET and value is not None
    }


def _path_text(value: object) -> str:
    return quote(query_text(plain(value)), safe="")
