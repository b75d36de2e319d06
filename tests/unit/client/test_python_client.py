"""What `perdure client python` writes: correct to type checkers, and to a server."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given, settings
from tests.unit.client.everything import QUICK, Everything, everything_served
from tests.unit.client.writing import check, loaded, python_text

from perdure import Actor, App, expose
from perdure.testing import async_test
from perdure.testing.json_strategies import json_values

ROOT = Path(__file__).parents[3]
PYTHON = Path(sys.executable)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    yield loaded(python_text(), tmp_path_factory.mktemp("written"))
    del sys.modules["written_client"]


def test_type_checkers_and_linters_have_nothing_to_say(tmp_path: Path) -> None:
    (tmp_path / "shop_client.py").write_text(python_text())
    (tmp_path / "use.py").write_text(
        "from typing import assert_type\n"
        "from shop_client import Client, Everything, Größe, Line\n"
        "async def use(value: Everything) -> None:\n"
        "    async with Client('http://localhost') as client:\n"
        "        größe = client.at(Größe, 'a')\n"
        "        assert_type(größe, Größe)\n"
        "        assert_type(await größe.echo(value), Everything)\n"
        "        assert_type(await größe.list([1]), list[int])\n"
        "        assert_type(await client.order(Line('tea')), Line)\n"
    )
    check(PYTHON, "-m", "mypy", "--strict", "shop_client.py", "use.py", folder=tmp_path)
    check(PYTHON.with_name("ruff"), "check", "--isolated", "shop_client.py", folder=tmp_path)


def test_the_same_app_gives_the_same_bytes() -> None:
    texts = set()
    for seed in ("1", "2", "3"):
        command = [PYTHON, "-c", "from perdure.cli import main; main()", "client", "python"]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [*command, "tests.unit.client.everything"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            check=True,
        )
        texts.add(done.stdout.decode())
    assert texts == {python_text()}


@settings(QUICK, max_examples=200)
@given(values=json_values(Everything))
def test_every_value_survives_the_way_through_the_written_types(
    written: ModuleType, values: Any
) -> None:
    original = msgspec.json.decode(msgspec.json.encode(values), type=Everything)
    there = written.from_json(json.loads(msgspec.json.encode(original)), written.Everything)
    assert isinstance(there, written.Everything)
    assert msgspec.json.decode(written.to_json(there), type=Everything) == original
    assert written.from_json(json.loads(written.to_json(there)), written.Everything) == there


@async_test
async def test_values_come_as_their_types(tmp_path: Path, written: ModuleType) -> None:
    sample = msgspec.json.decode(json.dumps(SAMPLE), type=Everything)
    async with everything_served() as url, written.Client(url) as client:
        given = written.from_json(json.loads(msgspec.json.encode(sample)), written.Everything)
        answer = await client.at(written.Größe, "a/b ü").echo(given)
        assert answer == given
        for name in ("when", "day", "at", "span", "id", "price", "raw"):
            assert getattr(answer, name) == getattr(sample, name)
        assert answer.colour is written.Colour.BLUE
        assert answer.shape == written.Square(2.0)
        assert (answer.point.x, answer.row.a) == (1, 2)
        assert answer.by_colour == {written.Colour.RED: 1}
        assert type(answer.thin) is not type(answer.thick)


@async_test
async def test_arguments_have_the_apps_defaults_and_survive_odd_names(written: ModuleType) -> None:
    async with everything_served() as url, written.Client(url) as client:
        größe = client.at(written.Größe, "a")
        assert await größe.list([7]) == [7, 3, 3, 2020, 0]
        lines = [written.Line("tea"), written.Line("mug")]
        since = date(1999, 1, 1)
        assert await größe.list([], written.Square(), result_=4, since=since, lines=lines) == [
            2,
            4,
            1999,
            2,
        ]
        assert await client.at(written.Client_2, "a").then(constructor=1) == 2
        assert await client.order(written.Line("tea")) == written.Line("tea")
        assert await client.at_2(uuid4()) is None
        told = {"sku": "a/b", "n": 5, "count": 1, "day": None, "flag": False, "note": None}
        assert await client.quote("a/b", 5) == told
        given = await client.quote("é", 0, count=None, day=date(2020, 2, 3), flag=True, note="&=")
        assert list(given.values()) == ["é", 0, None, "2020-02-03", True, "&="]


@async_test
async def test_refusals_are_classes_of_their_own(written: ModuleType) -> None:
    async with everything_served() as url, written.Client(url) as client:
        größe = client.at(written.Größe, "a")
        with pytest.raises(written.Taken, match="no") as failure:
            await größe.put(-1)
        assert (failure.value.kind, failure.value.status) == ("taken", 409)
        assert failure.value.problem["title"] == "Conflict"
        with pytest.raises(written.NotFoundError, match="nothing"):  # the app's own
            await größe.put(0)
        with pytest.raises(written.BadArgumentsError) as failure:
            await größe.put("many")
        assert failure.value.problem["field"] == "n"
        with pytest.raises(written.InvalidKeyError):
            await client.at(written.Größe, "a\n").put(1)
        with pytest.raises(ValueError, match="server's address"):
            written.Client("localhost:8000")


@async_test
async def test_a_request_id_makes_a_call_one(written: ModuleType) -> None:
    async with everything_served() as url, written.Client(url) as client:
        for _ in range(2):
            assert await client.at(written.Client_2, "a", request_id="once").hit() == 1
        assert await client.at(written.Client_2, "a").hit() == 2
        assert await client.at(written.Client_2, "a").close() == 2


@async_test
async def test_live_views_are_followed(written: ModuleType) -> None:
    async with everything_served() as url, written.Client(url) as client:
        größe = client.at(written.Größe, "a")
        seen = []
        async for view in größe.view_live("/x\u2028", limit=None):
            seen.append(view)
            if len(seen) == 2:
                break
            await größe.put(3)
        fixed = {"limit": None, "colour": written.Colour.RED}
        assert seen == [{"only/x\u2028": 0, **fixed}, {"only/x\u2028": 3, **fixed}]
        async for fields in größe.live():
            assert (fields.last, str(fields.total)) == (3, "0.10")
            break
        with pytest.raises(written.BadArgumentsError):
            await anext(aiter(größe.view_live(limit="many")))


@async_test
async def test_an_answer_that_does_not_fit_is_told(tmp_path: Path, written: ModuleType) -> None:
    with pytest.raises(written.ApiError, match="does not fit its type") as failure:
        written._read({"type": "Hexagon"}, written.Circle | written.Square)
    assert failure.value.kind == "unencodable"


def test_an_app_without_types_errors_or_functions_is_written_too(tmp_path: Path) -> None:
    class Tiny(Actor):
        @expose
        async def wave(self) -> None: ...

    (tmp_path / "tiny.py").write_text(python_text(App(Tiny)))
    (tmp_path / "none.py").write_text(python_text(App()))
    check(PYTHON, "-m", "mypy", "--strict", "tiny.py", "none.py", folder=tmp_path)
    check(PYTHON.with_name("ruff"), "check", "--isolated", ".", folder=tmp_path)


SAMPLE = json.loads(
    """
    {"i": 1, "f": 1, "s": "ü\u2028", "b": true, "n": null, "when": "2026-01-31T12:00:00.000001Z",
    "day": "2026-01-31", "at": "12:00:00", "span": "-P1DT0.5S", "price": "1E+3", "raw": "YWL/",
    "id": "6f1c2b1e-0000-4000-8000-000000000000", "colour": "blue", "level": 2, "lit": null,
    "opt": null, "uni": [1], "nested": {"a": [{"sku": "tea"}]}, "tup": [1, "a"], "tups": [1, 2],
    "sets": [1], "fro": ["a"], "node": {"name": "a", "children": [{"name": "b"}]},
    "shape": {"type": "Square", "side": 2}, "shapes": [null, {"type": "Circle", "r": 1}],
    "point": [1], "row": [2], "page": {"items": [{"sku": "a"}]}, "pages": {"items": [1]},
    "old": {"when": "2026-01-31T12:00:00"}, "typed": {"node": {"name": "a"}},
    "odd": {"a b": 1, "class": "x", "naïve": true}, "renamed": {"firstName": "a", "class": "b"},
    "maybe": {}, "by_number": {"1": "a"}, "by_day": {"2020-01-01": 1}, "by_colour": {"red": 1},
    "by_id": {"6f1c2b1e-0000-4000-8000-000000000001": [1]}, "anything": {"a": [null]},
    "number": 1.5, "thin": {"width": 1.0}, "thick": {"width": 2.0}}
    """
)
