"""The route to plain functions: access, arguments, one bounded task, one reply.

Invariants:
- Each call is one task with the deadline of actor calls; at its deadline it is cancelled.
- No more than `functions_running_max` run at once. As with turns, a client that hangs up cancels
  nothing: the function may have called actors already.
- A guest who sends nonsense hears 401 and learns nothing of the arguments.
"""

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from perdure.actor.model import Caller
from perdure.base.codec import encode
from perdure.base.errors import (
    BadArgumentsError,
    DeadlineError,
    MethodNotAllowedError,
    OverloadedError,
    PerdureError,
    StoppingError,
    UnencodableError,
)
from perdure.runtime.gateway import Gateway
from perdure.runtime.node import Node
from perdure.web.access import Identify, caller_of, check_access, check_body, refuse_cross_site
from perdure.web.entity_tags import reply_tagged
from perdure.web.functions import Function, Functions, Match
from perdure.web.page_links import link_next
from perdure.web.queries import values_of
from perdure.web.rate_limits import RatesOfRoutes

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

log = logging.getLogger("perdure.web")


class FunctionRoutes:
    """The functions of an app that runs, as an endpoint of the web server."""

    def __init__(
        self,
        functions: Functions,
        node: Node | Gateway,
        identify: Identify | None,
        rates: RatesOfRoutes,
    ) -> None:
        self._node = node
        self._rates = {
            function: found
            for function in functions
            if (found := rates.of(function.options.rate, _rate_name(function))) is not None
        }
        self._identify = identify
        self._default_access = "signed_in" if identify else "anyone"
        self._running = 0

    def handle(self, match: Match, exchange: "Exchange") -> None:
        """Answer one request when its function has ended."""
        try:
            function = _function_for(match, exchange)
            if function.dated_lines:
                exchange.lines += function.dated_lines
                exchange.is_plain = False
            if b"if-match" in exchange.fields:
                raise BadArgumentsError(
                    "a plain function has no state for If-Match; an actor's method has", "If-Match"
                )
            if function.method != b"GET":
                refuse_cross_site(exchange)
            if self._running >= self._node.limits.functions_running_max:
                raise OverloadedError(f"{self._running} functions run in this process already")
        except PerdureError as error:
            exchange.reply_problem(error)
            return
        self._running += 1
        self._node.spawn(self._answer(function, match, exchange))

    async def _answer(self, function: Function, match: Match, exchange: "Exchange") -> None:
        try:
            limit_s = self._node.limits.call_timeout_s
            own_s = function.options.timeout_s
            async with asyncio.timeout(
                limit_s if own_s is None else min(limit_s, own_s)
            ) as timeout:
                result = await self._call(function, match, exchange)
            body = _encoded(function, result)
            if function.method == b"GET":
                if function.is_paged:
                    link_next(exchange, body)
                reply_tagged(exchange, body)
            else:
                exchange.reply(200, body)
        except asyncio.CancelledError:
            exchange.reply_problem(StoppingError("this process is stopping"))
            raise
        except Exception as error:
            if isinstance(error, TimeoutError) and timeout.expired():
                error = DeadlineError(f"{function} did not end before its deadline")
            if not isinstance(error, PerdureError):
                log.error("function failed", exc_info=error, extra={"function": str(function)})
            exchange.reply_problem(error)
        finally:
            self._running -= 1

    async def _call(self, function: Function, match: Match, exchange: "Exchange") -> Any:
        caller: Caller | None = await caller_of(self._identify, exchange)
        in_path = match.path.pattern.decoded(match.values)
        key = in_path.get("key", "")
        rates = self._rates.get(function)
        if rates is not None and (waiting := rates.take(exchange, caller, key)) is not None:
            await waiting
        access = function.options.access or self._default_access
        await check_access(access, caller, key)
        if function.has_body:
            check_body(exchange, function.options.body_bytes_max)
            arguments = function.arguments_from_json(exchange.body)
        else:
            arguments = function.arguments_from_text(values_of(exchange.query))
        return await function.start(in_path, arguments, caller)


def _function_for(match: Match, exchange: "Exchange") -> Function:
    method = b"GET" if exchange.method == b"HEAD" else exchange.method
    function = match.path.functions.get(method)
    if function is None:
        allowed = match.path.allowed()
        raise MethodNotAllowedError(f"{match.path.pattern} answers {allowed}", allowed)
    return function


def _rate_name(function: Function) -> str:
    version = function.lifetime.version
    prefix = f"/v{version}" if version > 1 else ""  # two versions of a path may have two rates
    return f"{function.method.decode()} {prefix}{function.pattern}"


def _encoded(function: Function, result: Any) -> bytes:
    try:
        return encode(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnencodableError(f"{function} returned what JSON cannot hold: {error}") from None
