"""`perdure.Client`: references to actors of a server, as if they were here."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from starlette.requests import HTTPConnection
from tests.unit.client.everything import QUICK, Everything, Größe, everything_app, everything_served
from tests.unit.client.everything import Taken as TakenElsewhere
from tests.unit.web.live_serving import Board, serving, until

from perdure import (
    Actor,
    App,
    BadArgumentsError,
    Caller,
    Client,
    DefinitionError,
    DomainError,
    InvalidKeyError,
    NotFoundError,
    NotRunningError,
    NotSignedInError,
    PerdureError,
    TransactionError,
    expose,
    transaction,
    watch,
)
from perdure.store.memory import MemoryStore
from perdure.testing import async_test, running
from perdure.testing.json_strategies import json_values
from perdure.web.server import Server

TYPED = """
from collections.abc import AsyncIterator
from typing import assert_type

from perdure import Actor, Client, expose, live, watch


class Cart(Actor):
    lines: dict[str, int] = {}

    @expose
    async def add(self, sku: str, qty: int = 1) -> dict[str, int]:
        return self.lines

    @expose
    @live
    async def view(self, only: str = "") -> dict[str, int]:
        return self.lines


async def main() -> None:
    async with Client("http://shop", token="a", timeout_s=5) as client:
        assert_type(client.at(Cart, "alice"), Cart)
        assert_type(await client.at(Cart, "a", request_id="a").add("tea", qty=2), dict[str, int])
        assert_type(watch(client.at(Cart, "alice").view, only="t"), AsyncIterator[dict[str, int]])
        await client.at(Cart, "alice").add(2)  # type: ignore[arg-type]
        client.at(int, "alice")  # type: ignore[type-var]
"""


def test_to_a_type_checker_a_reference_is_the_class(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "use.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@settings(QUICK, max_examples=20)
@given(values=json_values(Everything))
def test_every_value_survives_the_way_there_and_back(values: Any) -> None:
    value = msgspec.json.decode(msgspec.json.encode(values), type=Everything)

    async def body() -> None:
        async with everything_served() as url, Client(url) as client:
            assert await client.at(Größe, "a/b ü").echo(value) == value

    asyncio.run(body())


@async_test
async def test_arguments_go_by_place_and_by_name_and_defaults_count() -> None:
    async with everything_served() as url, Client(f"{url}/") as client:
        reference = client.at(Größe, "a")
        assert await reference.list([7]) == [7, 3, 3, 2020, 0]
        assert await reference.list([7], result=4) == [7, 3, 4, 2020, 0]
        with pytest.raises(BadArgumentsError, match=r"Größe\.put"):
            await reference.put()  # type: ignore[call-arg]
        with pytest.raises(BadArgumentsError):
            await reference.put("many")  # type: ignore[arg-type]
        with pytest.raises(InvalidKeyError):
            client.at(Größe, "")
        for request_id in ("", "ü", 'a"b', "a" * 256):
            with pytest.raises(BadArgumentsError):
                client.at(Größe, "a", request_id=request_id)


@async_test
async def test_two_servers_and_this_process_do_not_mix() -> None:
    async with running(Board) as app, serving(app) as (port, _):
        await Board.at("a").put({"here": 1})
        async with Client(f"http://127.0.0.1:{port}") as client, Client("http://127.0.0.1:1") as no:
            assert await client.at(Board, "a").view() == {"here": 1}
            with pytest.raises(PerdureError, match="cannot be reached"):
                no._transport._attempts_max = 1
                await no.at(Board, "a").view()
        assert await Board.at("a").view() == {"here": 1}


@asynccontextmanager
async def asked(app: App) -> AsyncIterator[Client]:
    """A client of the App, which runs."""
    async with serving(app) as (port, _), Client(f"http://127.0.0.1:{port}") as client:
        yield client


# -- errors ----------------------------------------------------------------------------------------


class NameTaken(DomainError):
    """Refused with more than a message."""

    status = 422

    def __init__(self, name: str, owner: str) -> None:
        super().__init__(f"{name} belongs to {owner}")
        self.owner = owner


class Taken(DomainError):
    """Called as another that is loaded too, and here the nearer one."""

    status = 409


class Name(Actor):
    name: str = ""

    @expose
    async def claim(self, name: str) -> None:
        if name == "taken":
            raise Taken("somebody has it")
        raise NameTaken(name, "bob")


@async_test
async def test_refusals_are_the_classes_that_were_raised() -> None:
    async with running(Name) as app, asked(app) as client:
        with pytest.raises(NameTaken, match="alice belongs to bob") as failure:
            await client.at(Name, "a").claim("alice")
        assert (failure.value.kind, failure.value.status) == ("name-taken", 422)
        assert failure.value.problem is not None
        assert failure.value.problem["type"] == "urn:perdure:problem:name-taken"
        assert Taken.kind == TakenElsewhere.kind
        with pytest.raises(Taken):
            await client.at(Name, "a").claim("taken")


def _answering(document: dict[str, Any]) -> Client:
    def answer(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(document["status"], json=document)

    return Client("http://a", http=httpx.AsyncClient(transport=httpx.MockTransport(answer)))


@async_test
async def test_errors_of_the_library_have_their_classes_and_unknown_ones_a_base() -> None:
    prefix = "urn:perdure:problem:"
    for kind, status, error in (
        ("not-signed-in", 401, NotSignedInError),
        ("never-heard-of", 409, DomainError),
        ("never-heard-of", 500, PerdureError),
    ):
        document = {"type": prefix + kind, "status": status, "detail": "why", "field": "x"}
        with pytest.raises(PerdureError, match="why") as failure:
            await _answering(document).at(Name, "a").claim("b")
        assert type(failure.value) is error
        assert (failure.value.kind, failure.value.status) == (kind, status)
        assert failure.value.field == "x"  # type: ignore[attr-defined]


class Person(Actor):
    mail: "Any" = None

    async def hidden(self) -> None: ...


@async_test
async def test_what_is_not_exposed_cannot_be_called() -> None:
    async with running(Person) as app, asked(app) as client:
        with pytest.raises(NotFoundError):
            await client.at(Person, "a").hidden()
        with pytest.raises(AttributeError, match="field"):
            client.at(Person, "a").mail  # noqa: B018


@async_test
async def test_what_another_server_does_is_no_part_of_a_turn_or_transaction() -> None:
    async with Client("http://a") as client:
        with pytest.raises(NotRunningError, match="another server"):
            client.at(Name, "a").tell  # noqa: B018
        with pytest.raises(TransactionError, match="another server"):
            transaction(client.at(Name, "a"))


def test_wrong_addresses_and_bounds_are_refused_at_once() -> None:
    for url in ("localhost:8000", "ftp://a", "http://", ""):
        with pytest.raises(DefinitionError, match="no server's address"):
            Client(url)
    for options in ({"timeout_s": 0}, {"attempts_max": 0}):
        with pytest.raises(DefinitionError, match="above zero"):
            Client("http://a", **options)  # type: ignore[arg-type]


def test_without_httpx_there_is_one_clear_line_and_importing_perdure_needs_none() -> None:
    code = "import sys; sys.modules['httpx'] = None; import perdure; from perdure import Client"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: perdure.Client needs httpx, which is not installed; "
        "pip install 'perdure[client]'"
    )
    code = "import sys, perdure; print([n for n in sys.modules if n.partition('.')[0] == 'httpx'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n"


@async_test
async def test_an_application_of_this_process_can_be_called_without_a_socket() -> None:
    app = everything_app()
    async with app, httpx.AsyncClient(transport=httpx.ASGITransport(app)) as http:
        async with Client("http://test", http=http) as client:
            assert await client.at(Größe, "a").list([1]) == [1, 3, 3, 2020, 0]
        assert not http.is_closed


# -- live views ------------------------------------------------------------------------------------


@async_test
async def test_a_live_view_gives_whole_values() -> None:
    async with running(Board) as app, asked(app) as client:
        values = watch(client.at(Board, "a").view, only="t")
        assert await anext(values) == {}
        await Board.at("a").put({"tea": {"a": 1, "b": "x" * 30}, "mug": 1})
        assert await anext(values) == {"tea": {"a": 1, "b": "x" * 30}}
        await Board.at("a").put({"tea": {"a": 2, "b": "\u2028" * 30}, "mug": 1})
        assert await anext(values) == {"tea": {"a": 2, "b": "\u2028" * 30}}
        await values.aclose()  # type: ignore[attr-defined]
        await until(lambda: app.statistics()["live_subscribers"] == 0)


@async_test
async def test_a_live_view_outlives_its_server() -> None:
    store, seen = MemoryStore(), []
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    async def follow() -> None:
        async with Client(f"http://127.0.0.1:{port}") as client:
            async for fields in watch(client.at(Board, "a")):
                seen.append(fields.moves)

    following = asyncio.create_task(follow())
    for start in range(4):
        app = App(Board, store=store)
        async with app:
            if start:
                await Board.at("a").put({})
            server = Server(app, limits=app.limits)
            await server.start([socket.create_server(("127.0.0.1", port))])
            await until(lambda start=start: seen and seen[-1] == start)
            await server.close()
    following.cancel()
    assert seen == [0, 1, 2, 3]


async def _nobody(_connection: HTTPConnection) -> Caller | None:
    return None


@async_test
async def test_refusals_of_live_views_are_raised_as_what_they_are() -> None:
    app = App(Board, identify=_nobody, store=MemoryStore())
    async with app, serving(app) as (port, _), Client(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(NotSignedInError):
            await anext(watch(client.at(Board, "a")))
    async with running(Name) as app, asked(app) as client:
        with pytest.raises(PerdureError):
            await anext(watch(client.at(Board, "a").view))
    async with running(Board) as app, asked(app) as client:
        with pytest.raises(PerdureError) as failure:
            await anext(watch(client.at(Board, "a").view, only="trouble"))
        assert failure.value.status == 500
        assert json.dumps(failure.value.problem)
