"""Clients whose server is killed in the midst of their calls: each add counts once."""

import asyncio
import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.faults.supervised import Supervised, until
from tests.unit.client.compiling import NODE, compile_typescript, needs_typescript
from tests.unit.client.writing import loaded, python_text, typescript_text

from perdure import Client, watch

pytestmark = pytest.mark.faults

KILLS, CLIENTS = 4, 4

APP = '''
from perdure import Actor, App, expose, live


class Ledger(Actor):
    """What was added, in order."""

    seen: list[str] = []

    @expose
    async def add(self, name: str) -> int:
        self.seen.append(name)
        return len(self.seen)

    @expose
    @live
    async def view(self) -> list[str]:
        return self.seen


app = App(Ledger)
'''
Add = Callable[[str], Awaitable[Any]]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    (tmp_path / "ledger_app.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("ledger_app", None)
    return importlib.import_module("ledger_app")


async def _kill_while_adding(run: Supervised, add: Add) -> list[str]:
    """Adds names from several tasks while the server is killed again and again; what was added."""
    sent: list[str] = []
    over = False

    async def stream(client: int) -> None:
        number = 0
        while not over:
            name = f"{client}.{number}"
            await add(name)
            sent.append(name)
            number += 1

    tasks = [asyncio.create_task(stream(client)) for client in range(CLIENTS)]
    pid = await asyncio.to_thread(run.wait_ready)
    for _ in range(KILLS):
        count = len(sent)
        await asyncio.to_thread(until, lambda count=count: len(sent) > count + 20, "some adds")
        os.kill(pid, signal.SIGKILL)
        pid = await asyncio.to_thread(run.server, pid)
    over = True
    await asyncio.gather(*tasks)
    return sent


def _seen(run: Supervised) -> list[str]:
    run.wait_ready()
    status, seen = run.ask("GET", "/ledger/a/view")
    assert status == 200
    return list(seen)


def test_adds_through_perdure_client_count_once(tmp_path: Path, module: ModuleType) -> None:
    watched: list[list[str]] = []

    async def body(run: Supervised) -> list[str]:
        async with Client(f"http://127.0.0.1:{run.port}") as client:
            ledger = client.at(module.Ledger, "a")

            async def follow() -> None:
                async for seen in watch(ledger.view):
                    watched.append(seen)

            following = asyncio.create_task(follow())
            sent = await _kill_while_adding(
                run, lambda name: client.at(module.Ledger, "a").add(name)
            )
            async with asyncio.timeout(20):
                while not watched or len(watched[-1]) < len(sent):
                    await asyncio.sleep(0.01)
            following.cancel()
            return sent

    with Supervised(tmp_path, APP) as run:
        sent = asyncio.run(body(run))
        assert sorted(_seen(run)) == sorted(sent)
        assert len(sent) > 20 * KILLS
        assert all(later[: len(before)] == before for before, later in pairwise(watched))


def test_adds_through_a_written_python_client_count_once(
    tmp_path: Path, module: ModuleType
) -> None:
    written = loaded(python_text(module.app), tmp_path, "ledger_client")

    async def body(run: Supervised) -> list[str]:
        async with written.Client(f"http://127.0.0.1:{run.port}") as client:
            ledger = client.at(written.Ledger, "a")
            return await _kill_while_adding(run, ledger.add)

    with Supervised(tmp_path, APP) as run:
        sent = asyncio.run(body(run))
        assert sorted(_seen(run)) == sorted(sent)
        assert len(sent) > 20 * KILLS


PROGRAM = """
import { Client, Ledger } from "./client.js";
declare const process: {
  argv: string[];
  stdout: { write(text: string): void };
  on(name: "SIGTERM", listener: () => void): void;
};

let over = false;
process.on("SIGTERM", () => { over = true; });
const client = new Client(process.argv[2] ?? "");
const stream = async (number: number): Promise<void> => {
  for (let i = 0; !over; i++) {
    await client.at(Ledger, "a").add({ name: `${number}.${i}` });
    process.stdout.write(`${number}.${i}\\n`);
  }
};
await Promise.all([0, 1, 2, 3].map(stream));
"""


@needs_typescript
def test_adds_through_a_written_typescript_client_count_once(
    tmp_path: Path, module: ModuleType
) -> None:
    folder = tmp_path / "typescript"
    folder.mkdir()
    (folder / "client.ts").write_text(typescript_text(module.app))
    (folder / "use.ts").write_text(PROGRAM)
    assert compile_typescript(folder) == ""
    with Supervised(tmp_path, APP) as run, (folder / "sent").open("wb") as output:
        pid = run.wait_ready()
        url = f"http://127.0.0.1:{run.port}"
        node = subprocess.Popen([str(NODE), "use.js", url], cwd=folder, stdout=output)
        try:
            for _ in range(KILLS):
                count = len(_lines(folder / "sent"))
                until(lambda count=count: len(_lines(folder / "sent")) > count + 20, "some adds")
                os.kill(pid, signal.SIGKILL)
                pid = run.server(pid)
            node.send_signal(signal.SIGTERM)
            assert node.wait(20) == 0
        finally:
            node.kill()
            node.wait()
        sent = _lines(folder / "sent")
        assert sorted(_seen(run)) == sorted(sent)
        assert len(sent) > 20 * KILLS


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()
