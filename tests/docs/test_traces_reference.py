"""docs/reference/traces.md names every span and attribute that there is, and no other."""

import asyncio
import re
from pathlib import Path

import httpx
from tests.docs.test_reference import rows_of
from tests.unit.spans import seeing
from tests.unit.web.test_traced_edge import serving

from perdure import Actor, App, Delivery, expose, transaction
from perdure.testing import async_test

SOURCES = Path(__file__).parents[2] / "src/perdure"
ATTRIBUTE = r'"((?:http|url|network|rpc|messaging|perdure|error)\.[a-z_.]+)"'
MADE_IN = (
    "base/tracing.py",
    "actor/tracing.py",
    "actor/spans.py",
    "runtime/tracing.py",
    "web/traced_edge.py",
)


def test_the_table_of_attributes_is_the_code() -> None:
    made = {
        name for path in MADE_IN for name in re.findall(ATTRIBUTE, (SOURCES / path).read_text())
    }
    told = {row[0] for row in rows_of("traces.md") if re.fullmatch(ATTRIBUTE, f'"{row[0]}"')}
    assert len(made) > 10
    assert told == made


class Cart(Actor):
    count: int = 0

    @expose
    async def add(self) -> int:
        self.count += 1
        return self.count

    @expose
    async def all_of_it(self) -> None:
        self.count += 1
        await self.outbox_and_message()
        async with transaction():
            await Cart.at("other").add()

    async def outbox_and_message(self) -> None:
        await Cart.at("third").tell.add()
        self.outbox.send("hook", n=1)


@async_test
async def test_the_table_of_spans_is_the_code() -> None:
    taken: list[Delivery] = []

    async def hook(delivery: Delivery) -> None:
        taken.append(delivery)

    def told_as(name: str, kind: str) -> tuple[str, str]:
        name = name.replace("all_of_it", "add").replace("hook", "Cart/add")
        return name, kind

    told = {
        (row[0], row[1])
        for row in rows_of("traces.md")
        if row[1] in {"SERVER", "CLIENT", "INTERNAL", "PRODUCER", "CONSUMER"} and "." not in row[0]
    }
    with seeing() as seen:
        async with serving(App(Cart, store="memory:", outlets={"hook": hook})) as http:
            await http.post("/cart/a/all_of_it")
            await _concurrently(http)
            wanted = {name for name, _ in told}
            while not wanted <= {told_as(one.name, "")[0] for one in seen.all()}:
                await http.get("/-/live")
        made = {told_as(one.name, one.kind.name) for one in seen.all()}
    made |= {("Cart/add", "CLIENT"), ("Cart/add", "SERVER")}  # between processes: tests/faults
    assert made == told


async def _concurrently(http: httpx.AsyncClient) -> None:
    """Calls of which some wait for others."""
    await asyncio.gather(*(http.post("/cart/a/all_of_it") for _ in range(5)))
