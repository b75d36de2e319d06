"""Lost updates: writers that read, change and write back with If-Match, while owners are killed."""

import json
import os
import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
from tests.faults.database import Database
from tests.faults.lab import note
from tests.faults.supervised import WITHIN_S, Supervised, until

pytestmark = pytest.mark.faults

WRITERS, TIMES, KILLS = 8, 12, 4
APP = """
from perdure import Actor, App, expose, read


class Page(Actor):
    lines: list[str] = []

    @expose
    @read
    async def show(self) -> list[str]:
        return self.lines

    @expose
    async def replace(self, lines: list[str]) -> int:
        self.lines = lines
        return len(lines)


app = App(Page)
"""


class Writer:
    """One client. With an idempotency key it repeats a call that it got no answer to; without, it
    looks whether that was done."""

    def __init__(self, port: int, name: str, *, is_keyed: bool) -> None:
        self.refused = 0
        self.unanswered = 0
        self._port = port
        self._name = name
        self._is_keyed = is_keyed

    def run(self) -> None:
        for number in range(TIMES):
            line, tries = f"{self._name}/{number}", 0
            while True:
                tries += 1
                assert tries < 2_000, f"{line} does not get through"
                status, lines, tag = self._ask("GET", "show")
                if status != 200 or "-" not in tag:
                    continue
                if line in lines:  # the call without an answer was done
                    assert not self._is_keyed
                    break
                if self._write([*lines, line], tag, f"{line}/{tries}"):
                    break

    def _write(self, lines: list[str], tag: str, key: str) -> bool:
        headers = {"If-Match": tag} | ({"Idempotency-Key": key} if self._is_keyed else {})
        while True:
            status, _, _ = self._ask("POST", "replace", {"lines": lines}, headers)
            if status in {200, 412}:
                self.refused += status == 412
                return status == 200
            self.unanswered += 1
            if not self._is_keyed:
                return False

    def _ask(
        self, verb: str, method: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, str]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=WITHIN_S)
        try:
            sent = None if body is None else json.dumps(body)
            connection.request(verb, f"/page/home/{method}", sent, headers or {})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read()), reply.headers.get("etag", "")
        except (OSError, HTTPException):
            return 0, None, ""
        finally:
            connection.close()


@pytest.mark.parametrize("options", [(), ("--web", "2")], ids=["one process", "several"])
def test_no_update_is_lost_while_owners_are_killed(tmp_path: Path, options: Any) -> None:
    _write_while_owners_die(tmp_path, options, "several processes" if options else "one process")


def test_no_update_is_lost_while_an_actor_moves_from_owner_to_owner(
    tmp_path: Path, database: Database
) -> None:
    options = ("--web", "2", "--state", "2", "--store", database.url)
    _write_while_owners_die(tmp_path, options, "two owners on PostgreSQL")


def _write_while_owners_die(tmp_path: Path, options: Sequence[str], setting: str) -> None:
    with Supervised(tmp_path, APP, options=options) as run:
        run.wait_for_log("Perdure is serving")
        writers = [
            Writer(run.port, f"w{number}", is_keyed=number % 2 == 0) for number in range(WRITERS)
        ]
        reader = Writer(run.port, "reader", is_keyed=True)
        with ThreadPoolExecutor(WRITERS) as pool:
            written = [pool.submit(writer.run) for writer in writers]
            for kill in range(1, KILLS + 1):
                until(
                    lambda kill=kill: (
                        all(one.done() for one in written)
                        or len(reader._ask("GET", "show")[1] or ())
                        >= kill * WRITERS * TIMES // (KILLS + 1)
                    ),
                    "more lines",
                )
                os.kill(_owner(run, kill), signal.SIGKILL)
            for one in written:
                one.result(WITHIN_S * 3)
        _, lines, _ = until(lambda: _whole(reader), "an answer")
    for writer in range(WRITERS):
        own = [line for line in lines if line.startswith(f"w{writer}/")]
        assert own == [f"w{writer}/{number}" for number in range(TIMES)]
    assert len(lines) == WRITERS * TIMES
    refused = sum(writer.refused for writer in writers)
    assert refused, "nobody met anybody: this test shows nothing"
    note(
        "Lost updates",
        f"{WRITERS} writers with If-Match on one actor, {KILLS} times kill -9 of an owner"
        f" ({setting})",
        f"{len(lines)} changes, each there once and in order; {refused} stale ones refused, "
        f"{sum(writer.unanswered for writer in writers)} calls without an answer",
    )


def _whole(reader: Writer) -> Any:
    answer = reader._ask("GET", "show")
    return answer if answer[0] == 200 else None


def _owner(run: Supervised, number: int) -> int:
    """One of the processes that have the actors, another one each time."""
    owners = until(
        lambda: sorted((title, pid) for pid, title in run.titles().items() if "web" not in title),
        "an owner",
    )
    return int(owners[number % len(owners)][1])
