"""The replay of a shop's invoices, with a small file that holds every kind of dirt."""

import asyncio
import csv
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from examples.retail_replay.app import Cart as CartActor
from examples.retail_replay.app import app
from examples.retail_replay.replay import differences, kill_moments
from examples.retail_replay.rules import UNREADABLE, fold, read_lines

ROOT = Path(__file__).parents[2]
HEADER = [
    "InvoiceNo",
    "StockCode",
    "Description",
    "Quantity",
    "InvoiceDate",
    "UnitPrice",
    "CustomerID",
    "Country",
]
DIRT = {
    ("C5001", "22423", "-3", "12.75"): None,  # goods come back
    ("C5001", "22423", "3", "12.75"): "wrong-direction",
    ("5001", "22423", "-3", "12.75"): "wrong-direction",
    ("5001", "22423", "0", "12.75"): "no-quantity",
    ("5001", "22423", "1", "0.0"): None,  # a gift
    ("5001", "22423", "1", "-11062.06"): "negative-price",
    ("5001", "22423", "7", "0.001"): None,  # the same SKU again
    ("5001", 'gift/"0001"\' ünı·%2F?#', "2", "9.99"): None,
    ("5001", "", "2", "9.99"): "bad-sku",
    ("5001", "x" * 41, "2", "9.99"): "bad-sku",
    ("5001", "bell\a", "2", "9.99"): "bad-sku",
    ("5001", "22423", "two", "9.99"): UNREADABLE,
    ("5001", "22423", "2", "NaN"): UNREADABLE,
    ("5001", "22423", "99999999999999999999", "1"): UNREADABLE,
    ("", "22423", "2", "1"): UNREADABLE,
}
WANTED = Counter(kind for kind in DIRT.values() if kind is not None)


@pytest.fixture
def dirty_csv(tmp_path: Path) -> Path:
    """A few hundred good lines in thirty carts, and all the dirt between them."""
    chance = random.Random(7)
    rows = [[invoice, sku, "d", quantity, price] for invoice, sku, quantity, price in DIRT]
    for _ in range(400):
        invoice, sku = str(chance.randrange(5001, 5031)), str(chance.randrange(20_000, 20_020))
        price = str(Decimal(chance.randrange(1, 9999)) / 100)
        rows.append([invoice, sku, "d", str(chance.randrange(1, 50)), price])
    chance.shuffle(rows)
    path = tmp_path / "lines.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for invoice, sku, description, quantity, price in rows:
            customer = "" if invoice.endswith("7") else f"1{invoice}.0"
            date = "2010-12-01 08:26:00"
            writer.writerow(
                [invoice, sku, description, quantity, date, price, customer, "United Kingdom"]
            )
    return path


def replay_in_a_process(path: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "examples.retail_replay", path, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def reported(output: str) -> dict[str, str]:
    """The report's table; two spaces at least stand between its columns."""
    rows = [line.strip().rsplit("  ", 1) for line in output.splitlines()]
    return {row[0].strip(): row[1].strip() for row in rows if len(row) == 2}


@pytest.mark.faults
def test_every_cart_is_exact_although_the_server_is_killed(dirty_csv: Path, tmp_path: Path) -> None:
    done = replay_in_a_process(dirty_csv, "--kills", "3", "--data", str(tmp_path / "data"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = reported(done.stdout)
    assert report["differences"] == "0"
    assert report["kills"] == "3"
    assert report["lines"] == str(400 + len(DIRT))
    for kind, count in WANTED.items():
        assert report[f"refused: {kind}"] == str(count)


async def _plant(directory: Path) -> None:
    await app.start(f"sqlite:{directory}")
    try:
        await CartActor.at("5002").open("United Kingdom", "15002")
        await CartActor.at("5002").add("planted", 1, Decimal("0.01"))
    finally:
        await app.stop()


@pytest.mark.faults
def test_a_planted_difference_is_reported(dirty_csv: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    asyncio.run(_plant(data / "store"))
    done = replay_in_a_process(dirty_csv, "--kills", "1", "--data", str(data))
    assert done.returncode == 1, done.stdout + done.stderr
    assert reported(done.stdout)["differences"] == "1"
    assert "cart 5002: 'planted' has quantity 1, not None" in done.stdout


def test_the_rules_refuse_each_kind_of_dirt(dirty_csv: Path) -> None:
    folded = fold(read_lines(dirty_csv))
    assert folded.refused == WANTED
    assert folded.carts["C5001"].quantities == {"22423": -3}
    assert folded.carts["5007"].customer is None
    assert folded.carts["5001"].gifts == 1


def test_the_rules_and_the_actor_agree_on_the_lines_of_a_full_cart(tmp_path: Path) -> None:
    async def fill() -> tuple[int, str]:
        await app.start("memory:")
        try:
            cart = CartActor.at("9")
            await cart.open("France")
            for sku in range(1_200):
                await cart.add(str(sku), 1, Decimal("0.1"))
            return (await cart.view()).lines, str((await cart.view()).amount)
        finally:
            await app.stop()

    path = tmp_path / "long.csv"
    lines = "\n".join(f"9,{sku},d,1,now,0.1,,France" for sku in range(1_200))
    path.write_text(",".join(HEADER) + "\n" + lines)
    expected = fold(read_lines(path)).carts["9"]
    assert asyncio.run(fill()) == (expected.lines, str(expected.amount)) == (1_200, "120.0")


def test_each_kind_of_difference_is_told(dirty_csv: Path) -> None:
    expected = fold(read_lines(dirty_csv))
    lines = 400 + len(DIRT)
    same = dict(expected.carts)
    assert differences(expected, same, expected.refused, lines) == []
    lost = {name: cart for name, cart in same.items() if name != "5003"}
    cheaper = same | {"5004": replace(same["5004"], amount=Decimal(0))}
    refused = expected.refused + Counter({"no-quantity": 1})
    assert differences(expected, lost, expected.refused, lines) == ["cart 5003: is missing"]
    assert len(differences(expected, cheaper, expected.refused, lines)) == 1
    assert "no-quantity: 2, not 1" in differences(expected, same, refused, lines)[0]
    assert differences(expected, same, expected.refused, lines - 1) != []


def test_kill_moments_lie_within_the_file_and_repeat_with_the_seed() -> None:
    moments = kill_moments(100, 5, random.Random(3))
    assert moments == kill_moments(100, 5, random.Random(3)) == sorted(moments)
    assert len(set(moments)) == 5
    assert all(0 < moment < 100 for moment in moments)
    assert kill_moments(3, 20, random.Random(3)) == [1, 2]
