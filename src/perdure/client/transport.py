"""Sends calls to a server so that each is done once, and follows its live views.

It exists once for two: `perdure.Client` imports it, and every generated client holds it word for
word. So it needs nothing but Python and httpx, draws its own randomness, and knows no types.

Invariants:
- What the server may have done is sent again only where that does no harm: a read, a call with an
  idempotency key, which all its attempts share, or PUT and DELETE, whose repeats HTTP allows.
- One deadline holds for all attempts and pauses of a call, and so does a number of attempts.
- Who hears "unreachable" can be sure that nothing was done; else they hear "unanswered".
"""

import asyncio
import json
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx

from perdure.base.merge_patch import apply

ProblemDocument = dict[str, Any]  # RFC 9457
ErrorOfProblem = Callable[[ProblemDocument], Exception]

PROBLEM_TYPE = "urn:perdure:problem:"
CONNECT_S = 5.0
ATTEMPT_S = 35.0  # a little more than a server takes until it gives a call up by itself
SILENCE_S = 60.0  # a live view gives a sign of life every 15 seconds
PAUSE_S = 0.1  # doubled with each attempt
PAUSE_MAX_S = 2.0
LIVE_PAUSE_S = 0.25
LIVE_PAUSE_MAX_S = 15.0
EVENT_BYTES_MAX = 64 << 20
CONNECTIONS_MAX = 1000


@dataclass(frozen=True, kw_only=True)
class ServerCall:
    """One call, as it goes to the server."""

    method: str
    path: str
    query: Mapping[str, object]
    body: bytes | None = None
    idempotency_key: str | None = None
    is_read: bool = False

    @property
    def may_be_repeated(self) -> bool:
        """True if nothing counts twice when the server gets it twice."""
        return (
            self.is_read
            or self.idempotency_key is not None
            or self.method in {"GET", "PUT", "DELETE"}
        )


@dataclass(frozen=True, kw_only=True)
class FailedAttempt:
    """Why an attempt gave no result."""

    problem: ProblemDocument
    may_pass: bool = False  # another attempt may have a result
    was_sent: bool = True
    may_be_done: bool = False
    retry_after_s: float = 0.0


class Transport:
    """Connections to one server, and how it is asked."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None,
        headers: Mapping[str, str] | None,
        timeout_s: float,
        attempts_max: int,
        http: httpx.AsyncClient | None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("that is no server's address; write it like http://localhost:8000")
        if not timeout_s > 0 or attempts_max < 1:
            raise ValueError("timeout_s must be above zero, and attempts_max at least 1")
        self._url = url.rstrip("/")
        self._shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"  # without a password
        self._headers = dict(headers or {})
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._timeout_s = timeout_s
        self._attempts_max = attempts_max
        self._closes = http is None
        self._http = http or httpx.AsyncClient(
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=100)
        )

    async def close(self) -> None:
        """Close the connections, unless they belong to somebody else."""
        if self._closes:
            await self._http.aclose()

    # -- calls -----------------------------------------------------------------------------------

    async def call(self, request: ServerCall, error_of: ErrorOfProblem) -> bytes:
        """The body of the answer; raises what `error_of` makes of a problem."""
        end_s = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(end_s):
                outcome = await self._attempts(request, end_s)
        except TimeoutError:
            text = f"no answer within {self._timeout_s} s"
            outcome = FailedAttempt(problem=local_problem(504, "deadline", "Deadline passed", text))
        if isinstance(outcome, FailedAttempt):
            raise error_of(outcome.problem)
        return outcome

    async def _attempts(self, request: ServerCall, end_s: float) -> bytes | FailedAttempt:
        may_be_done = False
        attempt = 0
        while True:
            attempt += 1
            outcome = await self._attempt(request)
            if isinstance(outcome, bytes) or not outcome.may_pass:
                return outcome
            was_in_doubt, may_be_done = may_be_done, may_be_done or outcome.may_be_done
            pause_s = pause_before(attempt, outcome.retry_after_s)
            is_late = asyncio.get_running_loop().time() + pause_s >= end_s
            is_unsafe = outcome.was_sent and not request.may_be_repeated
            if is_unsafe or is_late or attempt >= self._attempts_max:
                in_doubt = was_in_doubt and not request.is_read
                return unanswered(outcome.problem.get("detail")) if in_doubt else outcome
            await asyncio.sleep(pause_s)

    async def _attempt(self, request: ServerCall) -> bytes | FailedAttempt:
        headers = dict(self._headers)
        if request.idempotency_key is not None:
            headers["Idempotency-Key"] = request.idempotency_key
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = await self._http.request(
                request.method,
                self._address(request.path, request.query),
                content=request.body,
                headers=headers,
                timeout=httpx.Timeout(ATTEMPT_S, connect=CONNECT_S),
            )
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            text = f"{self._shown} cannot be reached: {error or type(error).__name__}"
            problem = local_problem(503, "unreachable", "Try again later", text)
            return FailedAttempt(problem=problem, may_pass=True, was_sent=False)
        except httpx.RequestError as error:
            return unanswered(str(error) or type(error).__name__)
        return response.content if response.is_success else failure_of(response)

    def _address(self, path: str, query: Mapping[str, object]) -> str:
        texts = {name: query_text(value) for name, value in query.items()}
        return f"{self._url}{path}" + (f"?{urlencode(texts)}" if texts else "")

    # -- live views ------------------------------------------------------------------------------

    async def values(
        self,
        path: str,
        query: Mapping[str, object],
        read: Callable[[Any], Any],
        error_of: ErrorOfProblem,
    ) -> AsyncIterator[Any]:
        """What a live view shows, through `read`: first as it is, then after each change.

        A connection that is lost is made anew, after a growing, random wait, and goes on where it
        was. Raises what `error_of` makes of a problem, unless that passes. It holds no generator of
        ours within it: who is left by `break` could close those in any order.
        """
        value: Any = None
        token = ""
        failures = 0
        while True:
            response: httpx.Response | None = None
            try:
                response = await self._opened(path, query, token)
                await refuse_failure(response, error_of)
                buffer = b""
                async for chunk in response.aiter_bytes():
                    events, buffer = events_in(buffer + chunk)
                    for name, key, data in events:
                        failures, token = 0, key or token
                        if name == "error":
                            raise refusal_of(data, error_of)
                        value = data if name == "snapshot" else apply(value, data)
                        yield read(value)
            except httpx.RequestError:
                pass
            finally:
                if response is not None:
                    await response.aclose()
            pause_s = min(LIVE_PAUSE_S * 2**failures, LIVE_PAUSE_MAX_S)
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            failures = min(failures + 1, 10)

    async def _opened(self, path: str, query: Mapping[str, object], token: str) -> httpx.Response:
        headers = {**self._headers, "Accept": "text/event-stream"}
        if token:
            headers["Last-Event-ID"] = token
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        address = self._address(path, query)
        request = self._http.build_request("GET", address, headers=headers, timeout=timeout)
        return await self._http.send(request, stream=True)


# -- live views ----------------------------------------------------------------------------------


def events_in(data: bytes) -> tuple[list[tuple[str, str, Any]], bytes]:
    """The events that are complete, as name, id and data; and what there is of the next one."""
    *blocks, rest = data.split(b"\n\n")
    if len(rest) > EVENT_BYTES_MAX:
        raise httpx.RemoteProtocolError("an event is too large")
    found = []
    for block in blocks:
        # not by str.splitlines, which takes characters within JSON for ends of lines
        fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
        if b"data" in fields:
            name, key = fields.get(b"event", b""), fields.get(b"id", b"")
            found.append((name.decode(), key.decode(), json.loads(fields[b"data"])))
    return found, rest


async def refuse_failure(response: httpx.Response, error_of: ErrorOfProblem) -> None:
    """Raise what stands for an answer that is no stream: a RequestError if it may pass."""
    if response.is_success:
        return
    await response.aread()
    failure = failure_of(response)
    if failure.may_pass:
        raise httpx.RemoteProtocolError(f"status {response.status_code}")
    raise error_of(failure.problem)


def refusal_of(problem: ProblemDocument, error_of: ErrorOfProblem) -> Exception:
    """What an event tells that ends a stream: a RequestError if it may pass."""
    if problem.get("status") == 503:
        return httpx.RemoteProtocolError("the view ended for now")
    return error_of(problem)


# -- what came of an attempt ---------------------------------------------------------------------


def failure_of(response: httpx.Response) -> FailedAttempt:
    """What an answer other than a success means."""
    problem = problem_of(response)
    status, kind = response.status_code, str(problem.get("type"))
    retry_after_s = seconds_of(response.headers.get("Retry-After", ""))
    # a call that is half done is not done again: "interrupted"
    may_pass = status in {502, 503, 504} and kind != PROBLEM_TYPE + "interrupted"
    may_pass = may_pass or kind == PROBLEM_TYPE + "request-running"
    may_pass = may_pass or (status == 429 and retry_after_s is not None)
    # any other 503 says that an actor did nothing
    may_be_done = status in {502, 504} or kind == PROBLEM_TYPE + "outcome-unknown"
    return FailedAttempt(
        problem=problem,
        may_pass=may_pass,
        may_be_done=may_be_done,
        retry_after_s=retry_after_s or 0.0,
    )


def problem_of(response: httpx.Response) -> ProblemDocument:
    """The problem document of an answer, or one made up where it has none."""
    try:
        document = response.json()
    except ValueError:
        document = None
    if isinstance(document, dict) and "type" in document:
        return {**document, "status": response.status_code}
    title = response.reason_phrase or f"HTTP status {response.status_code}"
    return {"type": "about:blank", "title": title, "status": response.status_code}


def local_problem(status: int, kind: str, title: str, detail: str) -> ProblemDocument:
    """A problem that no server told."""
    return {"type": PROBLEM_TYPE + kind, "title": title, "status": status, "detail": detail}


def unanswered(why: object) -> FailedAttempt:
    """A call was sent, and nobody knows what became of it."""
    text = f"the call may have been done, there was no answer: {why}"
    problem = local_problem(504, "unanswered", "Deadline passed", text)
    return FailedAttempt(problem=problem, may_pass=True, may_be_done=True)


# -- small things --------------------------------------------------------------------------------


def pause_before(attempt: int, retry_after_s: float) -> float:
    """Seconds to wait after this attempt, at random, so that many do not come back at once."""
    pause_s: float = min(PAUSE_S * 2 ** (attempt - 1), PAUSE_MAX_S) * random.uniform(0.5, 1.5)
    return max(pause_s, retry_after_s * random.uniform(1.0, 1.5))


def seconds_of(retry_after: str) -> float | None:
    """How long a `Retry-After` says to wait: a number, or until a date."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time())
    except ValueError:
        return None


def query_text(value: object) -> str:
    """A value as it stands in a query."""
    return value if isinstance(value, str) else json.dumps(value)


def new_key() -> str:
    """A new idempotency key."""
    return secrets.token_hex(16)
