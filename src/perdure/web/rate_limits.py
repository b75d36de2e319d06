"""The rates of a route: whom a request is counted for, and what its answer says of that.

A request is counted once it is known who sent it, and before it is looked at whether they may: who
is refused with 401 or 403, for a wrong key or password, is counted as any other, and so are
arguments that do not fit. Who could not be identified is a guest, and counted by address: that is
what makes guessing slow. What the route does not answer at all (404, 405, a page of another site)
is not counted.

All rates must allow a request, and one that is refused is counted under none. Rates that count for
the same subject are decided on together; those before it that count for another are given back.

The fields are those of draft-ietf-httpapi-ratelimit-headers-11: `r` is how many more would be
allowed at once, and `t` in how many seconds that is one more.
"""

import hashlib
import ipaddress
import logging
from collections.abc import Coroutine, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from perdure.actor.model import Caller
from perdure.actor.rate import By, Rate, RateOrRates, named, rates_of
from perdure.base.errors import DefinitionError, PerdureError, RateLimitError
from perdure.base.gcra import NS_PER_S, Policy, Verdict
from perdure.runtime.rates import Rates

if TYPE_CHECKING:
    from perdure.web.exchange import Exchange

log = logging.getLogger("perdure.web")

_SUBJECT_CHARACTERS_MAX = 64  # a longer one is kept as its hash: their sizes have a bound as well
_IPV6_BITS = 64  # that one subscriber has all to themselves, at least

_Decided = tuple[str, Sequence[Policy], Verdict]


class RouteRates:
    """The rates of one route."""

    def __init__(self, rates: Sequence[Rate], limiter: Rates) -> None:
        self._limiter = limiter
        groups: dict[By, list[Policy]] = {}
        for rate in rates:
            groups.setdefault(rate.by, []).append(rate.policy)
        self._groups = [(by, tuple(policies)) for by, policies in groups.items()]
        self._policy_line = _policy_line(rates)
        self._only: bytes | None = None  # of one rate alone both lines are made in one go
        if len(rates) == 1:
            item = _item_form(rates[0].policy)
            self._only = b"ratelimit: %b\r\n%b" % (item, self._policy_line.replace(b"%", b"%%"))

    def take(
        self, exchange: "Exchange", caller: Caller | None, key: str
    ) -> Coroutine[Any, Any, None] | None:
        """Count a request, and let its answer tell; None, or the rest of the work if another
        process must be asked. Either raises RateLimitError."""
        decided: list[_Decided] = []
        for place, (by, policies) in enumerate(self._groups):
            subject = _subject_of(by, exchange, caller, key)
            if subject is None:
                continue
            verdict = self._limiter.take(subject, policies)
            if verdict is None:
                return self._go_on(place, decided, exchange, caller, key)
            decided.append((subject, policies, verdict))
            if not verdict.allowed:
                break
        self._end(exchange, decided)
        return None

    async def _go_on(
        self,
        place: int,
        decided: list[_Decided],
        exchange: "Exchange",
        caller: Caller | None,
        key: str,
    ) -> None:
        """The same from one place on, with waiting. What was decided before it stays: to begin anew
        would count twice."""
        for by, policies in self._groups[place:]:
            subject = _subject_of(by, exchange, caller, key)
            if subject is None:
                continue
            verdict = self._limiter.take(subject, policies)
            if verdict is None:
                verdict = await self._limiter.ask(subject, policies)
            decided.append((subject, policies, verdict))
            if not verdict.allowed:
                break
        self._end(exchange, decided)

    def _end(self, exchange: "Exchange", decided: list[_Decided]) -> None:
        if not decided:
            return
        exchange.is_plain = False
        _, policies, verdict = decided[-1]
        if not verdict.allowed:
            self._refuse(exchange, decided)
        if self._only is not None:
            left, wait_ns = policies[0].left(verdict.ahead_ns[0])
            exchange.lines += self._only % (left, -(-wait_ns // NS_PER_S))
            return
        items = [
            _item(one, ahead_ns)
            for _, policies, verdict in decided
            for one, ahead_ns in zip(policies, verdict.ahead_ns, strict=True)
        ]
        exchange.lines += b"ratelimit: %b\r\n%b" % (b", ".join(items), self._policy_line)

    def _refuse(self, exchange: "Exchange", decided: list[_Decided]) -> NoReturn:
        for subject, policies, verdict in decided[:-1]:
            self._limiter.give_back(subject, policies, verdict)
        _, policies, verdict = decided[-1]
        refusing = _refusing(policies, verdict)
        # only of those that refuse: no window may end after Retry-After
        items = b", ".join([_item(one, ahead_ns) for one, ahead_ns in refusing.items()])
        exchange.lines += b"ratelimit: %b\r\n%b" % (items, self._policy_line)
        raise _refusal(refusing, self._limiter)


class RatesOfRoutes:
    """Gives routes their rates, and sees to it that one name means one rate everywhere.

    Args:
        everywhere: the rates of all routes together.
    """

    def __init__(self, everywhere: Sequence[Rate], limiter: Rates) -> None:
        self._everywhere = named(everywhere, "all")
        self._limiter = limiter
        self._by_name: dict[str, Rate] = {}

    def of(self, own: RateOrRates | None, route: str) -> RouteRates | None:
        """What to ask for each request of this route; None if it has no rates.

        Raises DefinitionError if another rate with one of their names differs.
        """
        rates = {}
        for one in [*self._everywhere, *named(rates_of(own), route)]:
            rates[one.name] = one
            self._refuse_other(one, route)
        return RouteRates(list(rates.values()), self._limiter) if rates else None

    async def spend(self, rate: Rate, subject: str) -> None:
        """Count something that is no request of a route; see `App.spend`."""
        if rate.name is None:
            raise DefinitionError(f"{rate} needs a name: there is no route to give it one")
        self._refuse_other(rate, "spend")
        policies = (rate.policy,)
        if rate.by == "address":
            subject = _address(subject)
        else:
            subject = _short(f"={subject}" if rate.by == "caller" else f":{subject}")
        verdict = self._limiter.take(subject, policies)
        if verdict is None:
            verdict = await self._limiter.ask(subject, policies)
        if not verdict.allowed:
            raise _refusal(_refusing(policies, verdict), self._limiter)

    def _refuse_other(self, one: Rate, where: str) -> None:
        other = self._by_name.setdefault(str(one.name), one)
        if other != one:
            raise DefinitionError(
                f"{where}: two rates are named {one.name!r}, and differ: {other} and {one}"
            )


def _refusing(policies: Sequence[Policy], verdict: Verdict) -> dict[Policy, int]:
    """Those that refuse, and how far ahead their times are."""
    ahead_ns = zip(policies, verdict.ahead_ns, strict=True)
    return {one: one_ns for one, one_ns in ahead_ns if one.left(one_ns)[0] == 0}


def _refusal(refusing: dict[Policy, int], limiter: Rates) -> RateLimitError:
    names = tuple(one.name for one in refusing)
    for name in names:
        limiter.count_refusal(name)
    wait_ns = max(one.left(ahead_ns)[1] for one, ahead_ns in refusing.items())
    wait_s = -(-wait_ns // NS_PER_S)  # rounded up: who comes back then is not too early
    told = f"this comes too often ({', '.join(names)}); try again in {wait_s} s"
    return RateLimitError(told, wait_s, names)


def _subject_of(by: By, exchange: "Exchange", caller: Caller | None, key: str) -> str | None:
    """Whom to count a request for; None: it is not counted."""
    if by == "caller" and caller is not None:
        return _short(f"={caller.id}")
    if by == "caller" or by == "address":
        client = exchange.client
        return _address(client[0]) if client else "@"  # a Unix socket has no addresses
    try:
        text = by(caller, key)
        if text is not None and not isinstance(text, str):
            raise TypeError(f"`by` of a rate returned {type(text).__name__}, neither str nor None")
    except Exception as error:  # of the application: nobody gets past it for that
        log.exception("rate failed")
        raise PerdureError from error
    return None if text is None else _short(f":{text}")


@lru_cache(maxsize=4096)
def _address(host: str) -> str:
    """All addresses that one subscriber can choose from, as one subject."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # of a server that puts something else there
        return _short(f"@{host}")
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return f"@{address.ipv4_mapped}"
        return f"@{ipaddress.ip_network((address, _IPV6_BITS), strict=False)}"
    return f"@{address}"


def _short(subject: str) -> str:
    if len(subject) <= _SUBJECT_CHARACTERS_MAX and subject.isascii():
        return subject
    digest = hashlib.blake2b(subject.encode(errors="surrogatepass"), digest_size=24)
    return f"#{digest.hexdigest()}"


def _item(one: Policy, ahead_ns: int) -> bytes:
    left, wait_ns = one.left(ahead_ns)
    return _item_form(one) % (left, -(-wait_ns // NS_PER_S))


def _item_form(one: Policy) -> bytes:
    return b'"%b";r=%%d;t=%%d' % one.name.replace("%", "%%").encode()


def _policy_line(rates: Iterable[Rate]) -> bytes:
    items = []
    for one in rates:
        item = f'"{one.name}";q={one.limit};w={one.per_s}'
        if one.burst not in (None, one.limit):
            item += f";perdure-burst={one.burst}"
        items.append(item)
    return f"ratelimit-policy: {', '.join(items)}\r\n".encode()
