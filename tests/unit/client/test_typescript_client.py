"""What `perdure client typescript` writes: correct to the compiler, and to a server."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.client.compiling import compile_typescript, needs_typescript, run_node
from tests.unit.client.everything import QUICK, Everything, everything_served
from tests.unit.client.test_python_client import SAMPLE
from tests.unit.client.writing import typescript_text

from perdure import Actor, App, expose
from perdure.testing import async_test
from perdure.testing.json_strategies import json_values

compiling_test = partial(async_test, within_s=100.0)  # the compiler takes its time
ROOT = Path(__file__).parents[3]
IMPORT = 'import * as api from "./client.js";\n'
# what a program needs of Node.js, without its types
NODE = "declare const process: { argv: string[] };\nconst url = process.argv[2] ?? '';\n"


@needs_typescript
@settings(QUICK, max_examples=1)
@given(st.lists(json_values(Everything), min_size=30, max_size=30))
def test_the_compiler_takes_what_a_server_sends_and_takes(tmp_path: Path, samples: Any) -> None:
    values = [msgspec.json.decode(msgspec.json.encode(one), type=Everything) for one in samples]
    (tmp_path / "client.ts").write_text(typescript_text())
    received = msgspec.json.encode(values).decode()
    sent = json.dumps([*samples, SAMPLE])
    (tmp_path / "use.ts").write_text(
        f"{IMPORT}"
        f"export const received: api.Everything[] = {received};\n"
        f"export const sent: api.EverythingInput[] = {sent};\n"
    )
    assert compile_typescript(tmp_path) == ""


@needs_typescript
def test_types_are_no_wider_than_what_is_sent(tmp_path: Path) -> None:
    exact = {
        "n": "null",
        "b": "boolean",
        "lit": 'null | 1 | "x"',
        "opt": "string | null",
        "tup": "[number, string]",
        "colour": '"red" | "blue"',
        "level": "1 | 2",
        "uni": "number | string | number[]",
        "by_number": "Record<string, string>",
    }
    (tmp_path / "client.ts").write_text(typescript_text())
    (tmp_path / "use.ts").write_text(
        f"{IMPORT}"
        "type Is<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2)\n"
        "  ? true : never;\n"
        + "".join(
            f"export const {name}_is: Is<api.Everything['{name}'], {wanted}> = true;\n"
            for name, wanted in exact.items()
        )
    )
    assert compile_typescript(tmp_path) == ""


@needs_typescript
def test_the_compiler_sees_wrong_types(tmp_path: Path) -> None:
    (tmp_path / "client.ts").write_text(typescript_text())
    (tmp_path / "use.ts").write_text(
        f"{IMPORT}"
        "const client = new api.Client('http://a');\n"
        "await client.at(api.Größe, 'a').put({ n: 'many' });\n"
        "await client.at(api.Größe, 'a').put({});\n"
        "await client.at(api.Größe, 'a').put({ n: 1, m: 2 });\n"
        "const wrong: string = await client.at(api.Client_2, 'a').hit();\n"
        "client.at(Date, 'a');\n"
        "const line: api.Line = { sku: 'a' };\n"
        "const input: api.LineInput = { sku: 'a' };\n"
        "export { wrong, line, input };\n"
    )
    said = compile_typescript(tmp_path)
    wrong = [line for line in said.splitlines() if line.startswith("use.ts(")]
    assert [int(line[7:].partition(",")[0]) for line in wrong] == [3, 4, 5, 6, 7, 8]


def test_the_same_app_gives_the_same_bytes() -> None:
    texts = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", "from perdure.cli import main; main()", "client"]
        done = subprocess.run(
            [*command, "typescript", "tests.unit.client.everything"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        texts.add(done.stdout.decode())
    assert texts == {typescript_text()}


@needs_typescript
def test_an_app_without_types_errors_or_functions_is_written_too(tmp_path: Path) -> None:
    class Tiny(Actor):
        @expose
        async def wave(self) -> None: ...

    (tmp_path / "tiny.ts").write_text(typescript_text(App(Tiny)))
    (tmp_path / "none.ts").write_text(typescript_text(App()))
    assert compile_typescript(tmp_path) == ""


async def _said(folder: Path, program: str, url: str) -> Any:
    """What a program says that uses the client of the App with everything."""
    (folder / "client.ts").write_text(typescript_text())
    (folder / "use.ts").write_text(IMPORT + NODE + program)
    assert await asyncio.to_thread(compile_typescript, folder) == ""
    lines = (await asyncio.to_thread(run_node, folder, "use.js", url)).rstrip().split("\n")
    return [json.loads(line) for line in lines]


@asynccontextmanager
async def _server(*answers: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers each connection with the next of these, raw; none: it hangs up."""
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answers[len(heads) - 1])
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", heads
    server.close()


@needs_typescript
@compiling_test
async def test_calls_under_node_have_results_and_errors(tmp_path: Path) -> None:
    program = """
    const client = new api.Client(url + "/", { timeoutMs: 20_000 });
    const told = (value: unknown): void => console.log(JSON.stringify(value));
    const größe = client.at(api.Größe, "a/b ü");
    const sent: api.EverythingInput = SAMPLE;
    told(await größe.echo({ value: sent }));
    told(await größe.list({ list: [7], klass: { type: "Square" } }));
    told(await client.at(api.Client_2, "a").then_2({ constructor: 1 }));
    told(await client.quote({ sku: "a/b", n: 5 }));
    const day = "2020-02-03";
    told(await client.quote({ sku: "é", n: 0, count: null, day, flag: true, note: null }));
    told(await client.order({ line: { sku: "tea", colour: api.Colour.BLUE }, shapes: [] }));
    await client.at_2({ id: "6f1c2b1e-0000-4000-8000-000000000000" });
    for (const n of [-1, 0]) {
      try {
        await größe.put({ n });
      } catch (error) {
        if (!(error instanceof api.ApiError)) throw error;
        const kinds = [api.Taken, api.NotFoundError].map((one) => error instanceof one);
        told([kinds, error.kind, error.status, error.message, error.problem.title, error.name]);
      }
    }
    for (let i = 0; i < 2; i++) {
      told(await client.at(api.Client_2, "b", { requestId: "once" }).hit());
    }
    """
    async with everything_served() as url:
        said = await _said(tmp_path, program.replace("SAMPLE", json.dumps(SAMPLE)), url)
    sample = msgspec.json.decode(json.dumps(SAMPLE), type=Everything)
    assert said[0] == json.loads(msgspec.json.encode(sample))
    assert said[1:3] == [[7, 2, 3, 2020, 0], 2]
    assert list(said[3].values()) == ["a/b", 5, 1, None, False, None]
    assert list(said[4].values()) == ["é", 0, None, "2020-02-03", True, None]
    assert said[5] == {"sku": "tea", "qty": 1, "colour": "red", "tags": []}
    assert said[6] == [[True, False], "taken", 409, "no", "Conflict", "Taken"]
    assert said[7] == [[False, True], "no-such-thing", 404, "nothing", "Not found", "NotFoundError"]
    assert said[8:] == [1, 1]


@needs_typescript
@compiling_test
async def test_live_views_are_followed_and_left_under_node(tmp_path: Path) -> None:
    program = """
    const größe = new api.Client(url).at(api.Größe, "a");
    for await (const view of größe.view_live({ only: "/x\\u2028", limit: null })) {
      console.log(JSON.stringify(view));
      if (view["only/x\\u2028"] === 3) break;
      await größe.put({ n: 3 });
    }
    for await (const fields of größe.live()) {
      console.log(JSON.stringify(fields));
      break;
    }
    try {
      for await (const _ of größe.view_live({ colour: "green" as api.Colour })) break;
    } catch (error) {
      console.log(JSON.stringify(error instanceof api.BadArgumentsError));
    }
    """
    async with everything_served() as url:
        said = await _said(tmp_path, program, url)
    fixed = {"limit": None, "colour": "red"}
    assert said == [
        {"only/x\u2028": 0, **fixed},
        {"only/x\u2028": 3, **fixed},
        {"last": 3, "total": "0.10"},
        True,
    ]


@needs_typescript
@compiling_test
async def test_only_what_may_be_repeated_is_sent_again(tmp_path: Path) -> None:
    program = """
    type Call = (client: api.Client) => Promise<unknown>;
    const said = async (options: api.ClientOptions, call: Call) => {
      try {
        console.log(JSON.stringify(await call(new api.Client(url, options))));
      } catch (error) {
        if (!(error instanceof api.ApiError)) throw error;
        console.log(JSON.stringify(error.kind));
      }
    };
    await said({ token: "secret" }, (client) => client.at(api.Client_2, "a").hit());
    await said({}, (client) => client.order({ line: { sku: "a" } }));
    await said({ attemptsMax: 1 }, (client) => client.at(api.Client_2, "a").hit());
    await said({}, (client) => client.at(api.Client_2, "a").hit());
    await said({}, () =>
      new api.Client("http://127.0.0.1:CLOSED", { attemptsMax: 2 }).order({ line: { sku: "a" } }));
    await said({ timeoutMs: 300, fetch: (_, init) => new Promise((_, reject) =>
      init?.signal?.addEventListener("abort", () => reject(new Error("aborted")))) },
      (client) => client.at(api.Client_2, "a").hit());
    """
    ok = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n7"
    half = (
        b"HTTP/1.1 504 X\r\ncontent-type: application/problem+json\r\nconnection: close\r\n\r\n"
        b'{"type":"urn:perdure:problem:interrupted","title":"","status":504}'
    )
    busy = b"HTTP/1.1 503 X\r\nretry-after: 0\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    async with _server(b"", busy, ok, b"", b"", half) as (url, heads):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            closed = str(probe.getsockname()[1])
        said = await _said(tmp_path, program.replace("CLOSED", closed), url)
    kinds = ["unanswered", "unanswered", "interrupted", "unreachable", "deadline"]
    assert said == [7, *kinds]
    keys = [
        [line for line in head.decode().lower().split("\r\n") if line.startswith("idempotency")]
        for head in heads
    ]
    assert len(heads) == 6  # three attempts of the first, one of each other
    assert keys[0] == keys[1] == keys[2] != keys[4]
    assert keys[3] == []
    assert b"Bearer secret" in heads[0]
