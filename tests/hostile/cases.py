"""What a raw case is: bytes, what RFC 9110 and RFC 9112 make of them, and the section that says so.

These cases hold for any server; what ours answers exactly, and to its own limits, is in
`tests/unit/web/hostile_requests.py`.
"""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["refuse", "accept", "either"]

HOST = b"Host: a\r\n"
GET = b"GET / HTTP/1.1\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
GOOD = b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
INNER = b"GET /inner HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """One connection's worth of bytes.

    `refuse`: after `answers` good answers comes an error or the end of the connection, and no
    further good answer. `accept`: exactly `answers` good ones, with GOOD sent behind them where
    `goes_on`. `either`: the RFC leaves it open; nothing is demanded.
    """

    group: str
    section: str
    name: str
    raw: bytes
    verdict: Verdict
    answers: int = 0
    goes_on: bool = False

    @property
    def id(self) -> str:
        return f"{self.group}: {self.name}"

    @property
    def sent(self) -> bytes:
        return self.raw + GOOD if self.goes_on else self.raw


class Group:
    """Collects the cases of one subject."""

    def __init__(self, name: str, cases: list[Case]) -> None:
        self._name = name
        self._cases = cases

    def refuse(self, section: str, name: str, raw: bytes, answers: int = 0) -> None:
        self._cases.append(Case(self._name, section, name, raw, "refuse", answers))

    def either(self, section: str, name: str, raw: bytes) -> None:
        self._cases.append(Case(self._name, section, name, raw, "either"))

    def accept(self, section: str, name: str, raw: bytes, answers: int = 1) -> None:
        """GOOD follows: the connection must be at the right place then."""
        self._cases.append(Case(self._name, section, name, raw, "accept", answers + 1, True))

    def accept_and_close(self, section: str, name: str, raw: bytes) -> None:
        self._cases.append(Case(self._name, section, name, raw, "accept", 1))
