"""The OpenAPI document says what is done, and is seen by those who may see it."""

import base64
import hashlib
import json
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import httpx
import msgspec
import pytest
from starlette.requests import HTTPConnection

from perdure import Actor, App, Caller, Docs, DomainError, anyone, expose, live, owner, read
from perdure.testing import async_test
from perdure.web.openapi import openapi_of


class Line(msgspec.Struct):
    """One line."""

    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1
    colour: Literal["red", "blue"] | None = None


class Gone(DomainError):
    status = 409


class Teapot(DomainError):
    status = 418


class Basket(Actor):
    """What somebody wants.

    The key is their id.
    """

    lines: list[Line] = []

    @expose(access=owner)
    async def add(self, line: Line, note: Annotated[str, msgspec.Meta(examples=["soon"])]) -> int:
        """Put a line in.

        It is counted at once.
        """
        if note == "late":
            raise Gone("too late")
        self.lines.append(line)
        return len(self.lines)

    @expose(access=anyone)
    @live
    async def view(self, limit: int = 10) -> list[Line]:
        return self.lines[:limit]

    @expose(access=anyone)
    @read
    async def pick(self, numbers: list[int]) -> object:
        return [self.lines[number] for number in numbers]

    async def hidden(self) -> None: ...


async def _identify(connection: HTTPConnection) -> Caller | None:
    return Caller("ann") if "authorization" in connection.headers else None


def _app(**options: Any) -> App:
    app = App(Basket, store="memory:", **{"identify": _identify, "docs": True, **options})

    @app.get("/quote/{sku}", access=anyone)
    async def quote(sku: str, count: int = 1) -> int:
        """What it costs."""
        if sku == "pot":
            raise Teapot("short and stout")
        return count

    return app


def _client(app: Any, address: str = "127.0.0.1", url: str = "http://test") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, client=(address, 1))
    return httpx.AsyncClient(transport=transport, base_url=url)


async def _document(app: App) -> Any:
    async with app, _client(app) as http:
        reply = await http.get("/-/openapi.json")
        assert reply.headers["content-type"] == "application/json"
        return reply.json()


@async_test
async def test_it_is_valid_openapi() -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    for identify in (_identify, None):
        document = await _document(_app(identify=identify))
        validator.validate(document, cls=validator.OpenAPIV31SpecValidator)


@async_test
async def test_types_defaults_and_docstrings_are_told() -> None:
    document = await _document(_app(docs=Docs(title="Shop", version="7")))
    assert document["info"] == {"title": "Shop", "version": "7"}
    add = document["paths"]["/basket/{key}/add"]["post"]
    assert (add["operationId"], add["summary"]) == ("basket_add", "Put a line in.")
    assert add["description"] == "It is counted at once."
    content = add["requestBody"]["content"]["application/json"]
    assert content["example"] == {
        "line": {"sku": "text", "count": 1, "colour": None},
        "note": "soon",
    }
    assert content["schema"]["required"] == ["line", "note"]
    assert content["schema"]["additionalProperties"] is False
    assert content["schema"]["properties"]["line"] == {"$ref": "#/components/schemas/Line"}
    assert document["components"]["schemas"]["Line"]["properties"]["count"]["minimum"] == 1
    quote = document["paths"]["/quote/{sku}"]["get"]
    told = {one["name"]: (one["in"], one["required"]) for one in quote["parameters"]}
    assert told == {"sku": ("path", True), "count": ("query", False)}
    assert quote["parameters"][1]["schema"]["default"] == 1
    assert {tag["name"]: tag.get("description") for tag in document["tags"]} == {
        "Basket": "What somebody wants. The key is their id.",
        "Functions": None,
    }


@async_test
async def test_formats_are_told_of_what_travels_as_text() -> None:
    class Stay(msgspec.Struct, array_like=True, tag=True):
        begin: datetime
        nights: list[date]

    class Note(msgspec.Struct, tag=True):
        at: time

    app = App(store="memory:")

    @app.post("/stays")
    async def book(
        stay: Stay, note: Note | int, price: Decimal, more: dict[str, tuple[timedelta, bytes]]
    ) -> set[datetime]:
        return set()

    @app.get("/stays")
    async def find(begin: datetime | None = None, word: str | None = None) -> None: ...

    document = await _document(app)
    schemas = document["components"]["schemas"]
    assert [one.get("format") for one in schemas["Stay"]["prefixItems"]] == [
        None,  # the tag
        "date-time",
        None,  # the nights
    ]
    assert schemas["Note"]["properties"]["at"]["format"] == "time"
    paths = document["paths"]["/stays"]
    body = paths["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert [one.get("type") for one in body["price"]["anyOf"]] == ["string", "number"]
    duration, blob = body["more"]["additionalProperties"]["prefixItems"]
    assert re.match(duration["pattern"], "-P1DT2H")
    assert not re.match(duration["pattern"], "P1Y")
    assert re.match(blob["pattern"], "YQ==")
    assert not re.match(blob["pattern"], "YQ")
    result = paths["post"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert result == {"type": "array", "items": {"type": "string", "format": "date-time"}}
    begin, word = (one["schema"] for one in paths["get"]["parameters"])
    assert [one.get("enum", one.get("format", "seconds")) for one in begin["anyOf"]] == [
        "date-time",
        ["null"],
        "seconds",
    ]
    assert word == {"type": "string"}


@async_test
async def test_only_what_is_exposed_is_told_and_all_of_it() -> None:
    document = await _document(_app())
    told = {(verb, path) for path, verbs in document["paths"].items() for verb in verbs}
    assert told == {
        ("post", "/basket/{key}/add"),
        ("get", "/basket/{key}/view"),
        ("post", "/basket/{key}/view"),
        ("get", "/basket/{key}/view/live"),
        ("get", "/basket/{key}/pick"),
        ("post", "/basket/{key}/pick"),
        ("get", "/quote/{sku}"),
    }
    ids = [one["operationId"] for verbs in document["paths"].values() for one in verbs.values()]
    assert len(set(ids)) == len(ids)


@async_test
async def test_errors_idempotency_and_sign_in_are_told() -> None:
    document = await _document(_app())
    add = document["paths"]["/basket/{key}/add"]["post"]
    assert {"$ref": "#/components/parameters/Idempotency-Key"} in add["parameters"]
    assert add["security"] == [{"identify": []}]
    conflict = add["responses"]["409"]["content"]["application/problem+json"]
    kinds = conflict["schema"]["properties"]["type"]["anyOf"][0]["enum"]
    assert kinds[0] == "urn:perdure:problem:gone"
    assert "urn:perdure:problem:request-running" in kinds
    assert {"400", "401", "403", "413", "422", "500", "503", "504", "default"} < set(
        add["responses"]
    )
    view = document["paths"]["/basket/{key}/view"]["get"]
    assert view["security"] == [{}, {"identify": []}]
    assert "401" not in view["responses"]
    assert "418" in document["paths"]["/quote/{sku}"]["get"]["responses"]
    open_app = await _document(_app(identify=None))
    assert "security" not in open_app["paths"]["/basket/{key}/add"]["post"]


@async_test
async def test_the_scheme_of_identify_can_be_told() -> None:
    async def by_cookie(_connection: HTTPConnection) -> Caller | None:
        return None

    scheme = {"type": "apiKey", "in": "cookie", "name": "session"}
    by_cookie.security_scheme = scheme  # type: ignore[attr-defined]
    document = await _document(_app(identify=by_cookie))
    assert document["components"]["securitySchemes"] == {"identify": scheme}


@async_test
async def test_types_that_json_schema_does_not_know_are_anything() -> None:
    app = App(store="memory:")

    @app.get("/odd")
    async def odd() -> object:
        return 1

    @app.post("/odd")
    async def two(odd: dict[str, list[Line]]) -> Any:
        return odd

    document = await _document(app)
    schema = document["paths"]["/odd"]["get"]["responses"]["200"]["content"]
    assert schema == {"application/json": {"schema": {"description": "Anything."}}}
    body = document["paths"]["/odd"]["post"]["requestBody"]["content"]["application/json"]
    assert body["example"] == {"odd": {"name": [{"sku": "text", "count": 1, "colour": None}]}}


SHOWN = [
    ({"docs": None}, "127.0.0.1", "http://localhost:8000", {}, 200),
    ({"docs": None}, "::1", "http://[::1]:8000", {}, 200),
    ({"docs": None}, "10.1.2.3", "http://localhost", {}, 404),
    ({"docs": None}, "127.0.0.1", "http://shop.test", {}, 404),
    ({"docs": None}, "127.0.0.1", "http://localhost", {"x-forwarded-for": "10.1.1.1"}, 404),
    ({"docs": None}, "", "http://localhost", {}, 404),
    ({"docs": None, "identify": None}, "10.1.2.3", "http://shop.test", {}, 200),
    ({"docs": True}, "10.1.2.3", "http://shop.test", {}, 200),
    ({"docs": Docs()}, "10.1.2.3", "http://shop.test", {}, 200),
    ({"docs": False, "identify": None}, "127.0.0.1", "http://localhost", {}, 404),
]


@pytest.mark.parametrize("path", ["/-/docs", "/-/openapi.json"])
@pytest.mark.parametrize(("options", "address", "url", "headers", "status"), SHOWN)
def test_who_sees_it(
    options: Any, address: str, url: str, headers: Any, status: int, path: str
) -> None:
    @async_test
    async def asking() -> None:
        async with _app(**options) as app, _client(app, address, url) as http:
            reply = await http.get(path, headers=headers)
            assert reply.status_code == status
            if status == 404:
                assert "type" in reply.json()

    asking()


@async_test
async def test_the_page_may_run_its_own_script_only_and_asks_nobody_else() -> None:
    async with _app() as app, _client(app) as http:
        reply = await http.get("/-/docs")
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; connect-src 'self'")
    for tag in ("script", "style"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", reply.text, re.DOTALL)
        assert inside is not None
        digest = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?://|//[a-z]+\.[a-z]|innerHTML|eval\(", reply.text)


def test_a_document_of_many_classes_is_json() -> None:
    app = _app()
    document = openapi_of(app.operations(), Docs(), app.identify)
    assert json.loads(json.dumps(document)) == document


def _class_called_line() -> Any:
    class Line(msgspec.Struct):
        width: float = 1.0

    return Line


_Thin, _Thick = _class_called_line(), _class_called_line()  # of one qualified name


class Drawing(Actor):
    @expose
    async def draw(self, thin: _Thin, thick: _Thick, line: Line) -> list[_Thick]:
        return [thick]


@async_test
async def test_types_of_one_name_are_told_apart() -> None:
    document = await _document(App(Drawing, store="memory:", docs=True))
    draw = document["paths"]["/drawing/{key}/draw"]["post"]
    schema = draw["requestBody"]["content"]["application/json"]["schema"]
    names = {name: told["$ref"].rpartition("/")[2] for name, told in schema["properties"].items()}
    assert names == {"thin": "Line", "thick": "Line_2", "line": "Line_3"}
    result = draw["responses"]["200"]["content"]["application/json"]["schema"]
    assert result["items"] == {"$ref": "#/components/schemas/Line_2"}
    schemas = document["components"]["schemas"]
    assert set(schemas["Line_2"]["properties"]) == {"width"}
    assert set(schemas["Line_3"]["properties"]) == {"sku", "count", "colour"}
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(document, cls=validator.OpenAPIV31SpecValidator)
