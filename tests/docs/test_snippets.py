"""Every block of every document does what it says, or carries the reason why it is not run."""

from collections import Counter
from pathlib import Path

import pytest
from tests.docs.documents import DOCUMENTS, Block, blocks_of, name_of
from tests.docs.session import Session, commands_of, matches
from tests.docs.test_three_machines import REASON as THREE_MACHINES

# Every block that is not run, by document and reason. Keep it short.
NOT_RUN = Counter(
    {
        ("docs/how-to/deploy-systemd.md", "needs systemd"): 2,
        ("docs/how-to/deploy-systemd.md", "needs nginx"): 1,
        ("docs/how-to/use-postgresql.md", "needs a server of your own"): 6,
        (
            "docs/how-to/use-postgresql.md",
            "the folder must be open to the server's own user, which a folder of a test is not",
        ): 1,
        ("docs/how-to/several-databases.md", "needs a server of your own"): 2,
        ("docs/how-to/balance.md", "needs two machines with a server each"): 1,
        ("docs/how-to/balance-haproxy.md", "needs HAProxy and a cluster"): 1,
        ("docs/how-to/three-machines.md", "needs a PostgreSQL of the system"): 1,
        ("docs/how-to/three-machines.md", THREE_MACHINES): 9,
        ("docs/how-to/trace-requests.md", "needs a package index"): 1,
        ("docs/how-to/call-from-elsewhere.md", "needs a package index"): 1,
        ("README.md", "needs a package index"): 1,
        ("README.md", "starts a server and all the tests"): 1,
        ("docs/tutorial.md", "needs a package index"): 1,
    }
)

RUNNABLE = {"python", "console"}
SHOWN_ONLY = {"text"}  # diagrams and shapes: no code in them


def _is_run(block: Block) -> bool:
    return block.reason is None and (block.title is not None or block.language in RUNNABLE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_block_of_a_document_does_what_it_says(document: Path, tmp_path: Path) -> None:
    session = Session(tmp_path)
    try:
        for block in filter(_is_run, blocks_of(document)):
            try:
                session.do(block)
            except AssertionError as error:
                raise AssertionError(f"{block}: {error}") from error
    finally:
        session.close()


def test_the_blocks_that_are_not_run_are_these() -> None:
    found = Counter(
        (name_of(block.document), block.reason)
        for document in DOCUMENTS
        for block in blocks_of(document)
        if block.reason is not None
    )
    assert found == NOT_RUN


def test_every_block_is_run_or_marked_or_only_shown() -> None:
    """README.md is held to it as well, but for its blocks without a language."""
    silent = [
        str(block)
        for document in DOCUMENTS
        for block in blocks_of(document)
        if not _is_run(block) and block.reason is None and block.language not in SHOWN_ONLY
        if not (document.name == "README.md" and not block.language)
    ]
    assert not silent


def test_outputs_are_compared_word_for_word_but_for_the_wildcard() -> None:
    assert matches("a … c\n…\nz", "a b c\n1\n2\nz\n")
    assert matches("", "")
    assert matches("{}", "{}  \n")
    assert not matches("a", "ab")
    assert not matches("a\n…", "b\na")
    assert not matches("", "something")


def test_a_console_block_is_split_into_commands_and_outputs() -> None:
    text = "$ one\nout\nmore\n$ two \\\n  three\n^C\nbye\n"
    assert commands_of(text) == [("one", "out\nmore"), ("two \\\n  three", ""), ("^C", "bye")]


def test_a_wrong_output_fails(tmp_path: Path) -> None:
    block = Block(tmp_path, 1, "console", None, "$ echo yes\nno\n", None)
    with pytest.raises(AssertionError, match="the document says"):
        Session(tmp_path).do(block)
