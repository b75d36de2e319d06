"""`perdure state …` on PostgreSQL: what a query may not do, who may be there, what goes wrong."""

import asyncio
import json
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tests.unit.cli.invoking import at, fill, perdure

from perdure import Actor, App
from perdure.base.errors import OtherClusterError, StoreError
from perdure.base.shards import cell_of
from perdure.cli.looking import importing, looking
from perdure.store import postgres_ask
from perdure.store.api import StoredActor
from perdure.store.postgres_look import PostgresLook
from perdure.testing.postgres import fresh_database

ALICE = StoredActor("alice", b'{"n":1}', 1, 1, 1)


class Cart(Actor):
    n: int = 0

    async def add(self) -> None:
        self.n += 1


@pytest.fixture
def url() -> str:
    url = fresh_database()
    fill(url, {"cart": {"alice": '{"n":1}', "bob": '{"n":2}'}})
    return url


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty directory that the server's user can reach, even if the tests run as root."""
    directory = Path(tempfile.mkdtemp(prefix="perdure-embedded-"))
    directory.chmod(0o711)
    yield directory
    shutil.rmtree(directory)


def execute(url: str, sql: str) -> list[Any]:
    async def body() -> list[Any]:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetch(sql)
        finally:
            await connection.close()

    return asyncio.run(body())


# -- queries -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM cart",
        "UPDATE cart SET version = 9",
        "INSERT INTO cart SELECT * FROM cart",
        "DROP TABLE cart",
        "CREATE TABLE x (a int)",
        "CREATE TEMP TABLE x (a int)",
        "SELECT 1 INTO x",
        "SELECT 1; DELETE FROM cart",
        "SELECT 1; COMMIT; DELETE FROM cart",
        "COMMIT; DELETE FROM cart",
        "COMMIT",
        "ROLLBACK",
        "SET TRANSACTION READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "DO $$ BEGIN COMMIT; DELETE FROM cart; END $$",
        "CALL wipe_commit()",
        "COPY cart TO '{folder}/stolen'",
        "COPY (SELECT 1) TO PROGRAM 'touch {folder}/stolen'",
        "WITH gone AS (DELETE FROM cart RETURNING key) SELECT * FROM gone",
        "SELECT * FROM cart FOR UPDATE",
        "SELECT wipe()",
        "SELECT unlock(), wipe()",
        "SELECT nextval('perdure_message_block')",
        "LOCK TABLE cart",
        "VACUUM",
        "NOTIFY x",
    ],
)
def test_a_query_cannot_write(url: str, sql: str, folder: Path) -> None:
    folder.chmod(0o777)
    execute(
        url,
        "CREATE FUNCTION wipe() RETURNS int LANGUAGE sql AS $$ DELETE FROM cart; SELECT 1 $$",
    )
    execute(
        url,
        "CREATE FUNCTION unlock() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN SET TRANSACTION READ WRITE; RETURN 1; END $$",
    )
    execute(
        url,
        "CREATE PROCEDURE wipe_commit() LANGUAGE plpgsql AS"
        " $$ BEGIN COMMIT; DELETE FROM cart; COMMIT; END $$",
    )
    before = execute(url, "SELECT key, version, state::text FROM cart ORDER BY key")
    done = perdure("state", "query", sql.replace("{folder}", str(folder)), *at(url))
    assert done.exit_code == 2, done
    told = ("only SELECT is allowed", "INTO is not allowed", "must be set before any query")
    assert any(words in done.errors for words in told)
    assert execute(url, "SELECT key, version, state::text FROM cart ORDER BY key") == before
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "setting",
    [
        "set_config('transaction_read_only', 'off', true)",
        "set_config('transaction_read_only', 'off', false)",
        "set_config('default_transaction_read_only', 'off', false)",
    ],
)
def test_a_query_cannot_make_its_transaction_write(url: str, setting: str) -> None:
    execute(
        url,
        "CREATE FUNCTION wipe() RETURNS int LANGUAGE plpgsql AS"
        " $$ BEGIN DELETE FROM cart; RETURN 1; END $$",
    )
    sql = f"SELECT * FROM (SELECT {setting} AS done OFFSET 0) AS set, LATERAL (SELECT wipe()) AS w"
    assert perdure("state", "query", sql, *at(url)).exit_code == 2
    assert [row[0] for row in execute(url, "SELECT key FROM cart ORDER BY key")] == ["alice", "bob"]


def test_a_query_that_takes_too_long_is_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_ask, "_GRACE_S", 0.5)
    monkeypatch.setattr(postgres_ask, "ANSWER_S", 0.2)
    for sql in (
        "SELECT pg_sleep(60)",
        "SELECT set_config('statement_timeout', '0', false), pg_sleep(60)",
    ):
        with closing(PostgresLook(url)) as look:
            names, rows = look.query(sql)
            assert "pg_sleep" in names
            with pytest.raises(StoreError, match=r"took longer than 0\.2 s"):
                list(rows)


def test_values_of_every_type_are_json_or_text(url: str) -> None:
    sql = (
        "SELECT 1.50::numeric AS price, true AS yes, ARRAY[1, 2] AS list, '\\x6869'::bytea AS hi,"
        " '2024-01-02'::date AS day, '{\"a\": 1}'::json AS doc, int4range(1, 3) AS range,"
        " ROW(1, 'x'::text) AS pair, 'NaN'::numeric AS nan, NULL AS nothing, sum(n) AS total"
        " FROM generate_series(1, 3) AS n"
    )
    done = perdure("state", "query", "--json", sql, *at(url))
    assert '"price":1.50' in done.output
    row = json.loads(done.output)
    assert (row["yes"], row["list"], row["hi"]) == (True, [1, 2], "hi")
    assert (row["day"], row["doc"], row["total"]) == ("2024-01-02", '{"a": 1}', 6)
    assert (row["nan"], row["nothing"]) == ("NaN", None)
    assert "1, 3" in row["range"]
    done = perdure("state", "query", sql, *at(url))
    assert "true" in done.output
    assert "[1,2]" in done.output


def test_the_hint_for_wrong_sql_is_postgresqls(url: str) -> None:
    done = perdure("state", "query", "SELECT nothing FROM cart", *at(url))
    assert done.exit_code == 2
    assert 'PostgreSQL says: column "nothing" does not exist' in done.errors
    assert "state ->> 'items'" in done.errors


def test_thousands_of_rows_come_in_pages(url: str) -> None:
    done = perdure("state", "query", "--json", "SELECT * FROM generate_series(1, 1234) n", *at(url))
    assert [json.loads(line)["n"] for line in done.output.splitlines()] == list(range(1, 1235))


def test_an_export_leaves_out_entries_that_nobody_has(url: str) -> None:
    """No import would take them; they are there only where somebody has deleted rows by hand."""
    execute(
        url,
        "INSERT INTO perdure_entry SELECT 'cart', key, 'log', '1', '{}'"
        " FROM unnest(ARRAY['aaron', 'alice', 'alina', 'bob', 'zoe']) AS key",
    )
    done = perdure("state", "export", "-", *at(url))
    lines = [json.loads(line) for line in done.output.splitlines()]
    assert [(one["key"], "entry" in one) for one in lines] == [
        ("alice", False),
        ("alice", True),
        ("bob", False),
        ("bob", True),
    ]


# -- who may be there ----------------------------------------------------------------------------


def test_nobody_starts_while_actors_come_in_and_all_can_afterwards(url: str) -> None:
    async def start() -> None:
        async with App(Cart, store=url):
            await Cart.at("carol").add()

    with importing(url) as store:
        with pytest.raises(OtherClusterError):
            asyncio.run(start())
        with store.batch():
            store.put("cart", ALICE, replace=True)
    asyncio.run(start())
    with looking(url) as look:
        assert look.count("cart") == 3


def test_a_member_that_shows_no_session_is_waited_for(url: str) -> None:
    """As behind a pooler, or when its network has failed: then the lease counts."""
    with importing(url):
        execute(url, "UPDATE perdure_member SET lease_until = now() + interval '1 hour'")
        execute(
            url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name ~ '^perdure'",
        )
        wait_for_no_session(url)
        done = perdure("state", "import", "-", *at(url), given="")
        assert done.exit_code == 75
        assert "stop them first" in done.errors


def test_an_import_that_was_taken_out_writes_nothing_more(url: str) -> None:
    with pytest.raises(Exception, match="no member any more"), importing(url) as store:
        execute(url, "DELETE FROM perdure_fence WHERE incarnation > 0")
        with store.batch():
            store.put("cart", ALICE, replace=True)
    [[state]] = execute(url, "SELECT state::text FROM cart WHERE key = 'alice'")
    assert state == '{"n":1}'


def test_an_export_is_spread_over_cells_and_each_knows_which_it_is(
    url: str, tmp_path: Path
) -> None:
    fill(url, {"wallet": {f"k{number}": f'{{"n":{number}}}' for number in range(20)}})
    export = str(tmp_path / "all.jsonl")
    assert perdure("state", "export", export, *at(url)).exit_code == 0
    cells = [fresh_database(), fresh_database()]
    given = [part for one in cells for part in ("--store", one)]
    done = perdure("state", "import", export, *given)
    assert (done.exit_code, done.errors) == (0, "imported 22 actors\n")
    found: list[set[str]] = []
    for one in cells:
        rows = execute(one, "SELECT key FROM wallet")
        found.append({key for [key] in rows})
        assert execute(one, "SELECT number, count FROM perdure_cell") == [(len(found) - 1, 2)]
    for number, keys in enumerate(found):
        assert len(keys) > 3
        assert {cell_of(key, 2) for key in keys} == {number}
    alone = perdure("state", "import", export, "--replace", *at(cells[1]))
    assert alone.exit_code != 0
    assert "this database is cell 2 of 2, and was named as cell 1 of 1" in alone.errors


@pytest.mark.parametrize("command", ["import", "migrate"])
def test_nothing_is_written_beside_a_process_that_owns_actors(
    url: str, command: str, tmp_path: Path
) -> None:
    (app := tmp_path / "cart_app.py").write_text(
        "from perdure import Actor, App\nclass Cart(Actor):\n    n: int = 0\napp = App(Cart)\n"
    )
    given = {"import": "-", "migrate": str(app)}

    async def body() -> None:
        async with App(Cart, store=url):
            await Cart.at("alice").add()
            done = await asyncio.to_thread(
                perdure, "state", command, given[command], *at(url), given=""
            )
            assert done.exit_code == 75
            assert "stop" in done.errors
            await Cart.at("alice").add()  # it is not fenced

    asyncio.run(body())
    [[state]] = execute(url, "SELECT state::text FROM cart WHERE key = 'alice'")
    assert state == '{"n":3}'


def test_what_was_dead_for_long_does_not_hold_up_an_import(url: str) -> None:
    async def crash() -> None:
        async with App(Cart, store=url):
            await Cart.at("carol").add()
            connection = await asyncpg.connect(url)
            await connection.execute(
                "CREATE TABLE kept AS SELECT * FROM perdure_member;"
                "CREATE TABLE fences AS SELECT * FROM perdure_fence WHERE incarnation > 0"
            )
            await connection.close()

    asyncio.run(crash())
    execute(url, "INSERT INTO perdure_member SELECT * FROM kept")
    execute(url, "INSERT INTO perdure_fence SELECT * FROM fences")
    execute(url, "UPDATE perdure_member SET lease_until = now() - interval '1 second'")
    wait_for_no_session(url)
    done = perdure("state", "import", "-", *at(url), given="")
    assert done.exit_code == 0, done.errors
    assert execute(url, "SELECT * FROM perdure_member") == []


def wait_for_no_session(url: str) -> None:
    async def body() -> None:
        connection = await asyncpg.connect(url)
        seen = (
            "SELECT FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name ~ '^perdure'"
        )
        async with asyncio.timeout(20):
            while await connection.fetch(seen):
                await asyncio.sleep(0.01)
        await connection.close()

    asyncio.run(body())


# -- mistakes ------------------------------------------------------------------------------------

EVERY = (
    ["list"],
    ["show", "cart", "a"],
    ["query", "SELECT 1"],
    ["export", "-"],
    ["letters"],
    ["resend", "1"],
)


def told(command: Sequence[str], url: str) -> str:
    """What a command says that fails: one line and a hint."""
    done = perdure("state", *command, *at(url))
    assert done.output == ""
    lines = done.errors.splitlines()
    assert len(lines) == 2, done.errors
    assert lines[1].startswith("  hint: ")
    assert "secret" not in done.errors
    return f"{done.exit_code} {done.errors}"


@pytest.mark.parametrize("command", EVERY, ids=" ".join)
def test_a_database_without_a_store_is_told_and_left_alone(command: list[str]) -> None:
    url = fresh_database()
    said = told(command, url)
    assert said.startswith("66 perdure: there is no store in PostgreSQL at")
    assert "search_path" in said
    assert execute(url, "SELECT FROM pg_class WHERE relname ~ '^perdure'") == []


@pytest.mark.parametrize("command", [*EVERY, ["import", "-"]], ids=" ".join)
def test_a_newer_format_is_told(url: str, command: list[str]) -> None:
    execute(url, "UPDATE perdure_format SET format = 99")
    done = perdure("state", *command, *at(url), given="")
    assert done.exit_code == 65
    assert "has format 99, this Perdure reads up to 1; upgrade Perdure" in done.errors


def test_a_server_that_is_not_there_is_told_at_once() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    said = told(["list"], f"postgresql://shop:secret@127.0.0.1:{port}/shop")
    assert f"66 perdure: PostgreSQL at 127.0.0.1:{port}/shop cannot be reached" in said
    assert "can this machine reach it?" in said


def test_a_database_or_a_role_that_is_not_there_is_told(url: str) -> None:
    assert "CREATE DATABASE" in told(["list"], url.replace("/t_", "/u_"))
    assert "pg_hba.conf" in told(["list"], url.replace("perdure@", "nobody:secret@"))


def test_a_role_without_rights_is_told(url: str) -> None:
    execute(url, "DROP ROLE IF EXISTS onlooker")
    execute(url, "CREATE ROLE onlooker LOGIN")
    try:
        said = told(["list"], url.replace("perdure@", "onlooker@"))
    finally:
        execute(url, "DROP ROLE onlooker")
    assert "permission denied" in said
    assert "the role needs USAGE" in said


def test_a_wrong_password_is_told() -> None:
    with refusing_passwords() as port:
        said = told(["list"], f"postgresql://shop:secret@127.0.0.1:{port}/shop")
    assert 'password authentication failed for user "shop"' in said
    assert "must hold the password of that role" in said


def test_a_url_that_is_none_is_told() -> None:
    assert "cannot be read" in told(["list"], "postgresql://[::1/shop")
    assert "cannot be read" in told(["list"], "postgresql://db:port/shop")


@contextmanager
def refusing_passwords() -> Iterator[int]:
    """A server that speaks just enough to say no; its port."""
    fields = "SFATAL", "C28P01", 'Mpassword authentication failed for user "shop"', ""
    refusal = "".join(f"{field}\0" for field in fields).encode()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            with peer:
                first = peer.recv(4096)
                if len(first) == 8:  # it asks for TLS
                    peer.sendall(b"N")
                    peer.recv(4096)
                peer.sendall(b"E" + (len(refusal) + 4).to_bytes(4, "big") + refusal)
                peer.recv(1)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


# -- a server of one's own -----------------------------------------------------------------------


def test_an_embedded_server_is_started_to_look_into_it_and_stopped_again(folder: Path) -> None:
    store = ["--store", "postgresql:embedded", "--data", folder]
    done = perdure("state", "list", *store)
    assert done.exit_code == 66
    assert f"there is no store in {folder}" in done.errors
    assert list(folder.iterdir()) == []
    line = '{"type":"cart","key":"a","version":1,"created_at_ms":1,"updated_at_ms":1,"state":{}}'
    done = perdure("state", "import", "-", *store, given=line)
    assert (done.exit_code, done.errors) == (0, "imported 1 actor\n")
    done = perdure("state", "list", "--store", f"postgresql:embedded:{folder}")
    assert [row.split() for row in done.output.splitlines()] == [["type", "actors"], ["cart", "1"]]
    assert not (folder / "postgres" / "postmaster.pid").exists()
