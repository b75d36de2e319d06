"""What a type checker sees of a query: rows of the class that was asked."""

import subprocess
import sys
from pathlib import Path

QUERY = """
from typing import Annotated, assert_type

from perdure import Actor, Page, Row, Selection, indexed, unique


class Order(Actor):
    email: Annotated[str | None, unique] = None
    items: Annotated[int, indexed] = 0

    async def pay(self, cents: int) -> bool:
        return cents > 0


async def main() -> None:
    selection = Order.where(items__gt=1).order_by("-items").limit(5).after(None)
    assert_type(selection, Selection[Order])
    page = await selection
    assert_type(page, Page[Row[Order]])
    assert_type(page.next, str | None)
    assert_type(page.map(lambda row: row.key), Page[str])
    assert_type(page[0], Row[Order])
    assert_type(page[1:], list[Row[Order]])
    assert_type(page[0].state, Order)
    assert_type(page[0].state.email, str | None)
    assert_type(await page[0].reference.pay(3), bool)
    assert_type([row.key for row in page], list[str])
    async for row in selection:
        assert_type(row, Row[Order])
    assert_type(await Order.find(email="a@b.c"), Row[Order] | None)
"""


def test_rows_have_the_type_of_the_class_that_was_asked(tmp_path: Path) -> None:
    (tmp_path / "query.py").write_text(QUERY)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "query.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
