"""What an App's OpenAPI document says is what it does: schemathesis reads it and tries to prove the
opposite, with good requests, bad ones, and none that the document knows of.

Left out are live views, which are streams that do not end, and the stateful phase, which follows
links, and the documents have none. All checks are on.
"""

import asyncio
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from examples.main_street.app import app as main_street
from examples.main_street.sessions import Session, User, key_of
from tests.schema.everything import make_app

from perdure import App
from perdure.web import openapi
from perdure.web.server import Server

WITHIN_S = 100.0
TRIES_PER_OPERATION = 25
SEED = 5

Prepare = Callable[[], Coroutine[Any, Any, None]]


@contextmanager
def served(app: App, prepare: Prepare | None = None) -> Iterator[int]:
    """Serves an App on a loop of its own thread; gives the port."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    listening = socket.create_server(("127.0.0.1", 0))
    server = Server(app, app.site, app.limits)

    async def begin() -> None:
        await app.start("memory:")
        await server.start([listening], None)
        if prepare is not None:
            await prepare()

    async def end() -> None:
        await server.close()
        await app.stop()

    def run(coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, loop).result(WITHIN_S)

    try:
        run(begin())
        yield listening.getsockname()[1]
    finally:
        run(end())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WITHIN_S)
        loop.close()
        listening.close()


def what_schemathesis_finds(port: int, folder: Path, settings: str = "") -> tuple[int, str]:
    """The exit code, 0 if nothing was found, and what it said."""
    settings_file = folder / "schemathesis.toml"
    settings_file.write_text(settings)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", settings_file),
            *("run", f"http://127.0.0.1:{port}/-/openapi.json", "--checks", "all"),
            *("--phases", "examples,coverage,fuzzing", "--exclude-path-regex", "/live$"),
            *("--max-examples", str(TRIES_PER_OPERATION), "--seed", str(SEED), "--no-color"),
            *("--continue-on-failure", "--request-timeout", "10"),
        ],
        cwd=folder,
        env=os.environ
        | {
            "PYTHONPATH": str(Path(__file__).parent),
            "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
        },
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    return run.returncode, run.stdout + run.stderr


def tried(said: str) -> int:
    """How many requests were sent."""
    found = re.search(r"(\d+) generated", said)
    assert found, said
    return int(found[1])


def test_main_street_does_what_its_document_says(tmp_path: Path) -> None:
    async def ada_signs_in() -> None:
        await Session.at(key_of("secret")).begin(User("ada", "Ada", "red"))

    settings = '[auth.openapi.identify]\napi_key = "secret"\n[parameters]\n"path.key" = "ada"\n'
    with served(main_street, ada_signs_in) as port:
        code, said = what_schemathesis_finds(port, tmp_path, settings)
    assert code == 0, said
    assert tried(said) > 150
    assert "returned only 401/403" not in said  # else nothing would have been looked at


def test_main_street_says_so_too_to_who_asks_for_the_carts_of_others(tmp_path: Path) -> None:
    with served(main_street) as port:
        code, said = what_schemathesis_finds(port, tmp_path)
    assert code == 0, said
    assert tried(said) > 150


def test_every_type_is_described_as_it_is_taken_and_given(tmp_path: Path) -> None:
    with served(make_app()) as port:
        code, said = what_schemathesis_finds(port, tmp_path)
    assert code == 0, said
    assert tried(said) > 1_000


def test_a_document_that_promises_too_much_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(openapi._KEY, "pattern")
    with served(make_app()) as port:
        code, said = what_schemathesis_finds(port, tmp_path)
    assert code == 1, said
    assert "urn:perdure:problem:invalid-key" in said
