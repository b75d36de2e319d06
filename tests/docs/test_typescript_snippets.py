"""TypeScript in the documents compiles, and says what it should, against the app beside it."""

from pathlib import Path

from tests.docs.documents import ROOT, blocks_of
from tests.docs.session import Session
from tests.unit.client.compiling import compile_typescript, needs_typescript, run_node

DOCUMENT = ROOT / "docs" / "how-to" / "call-from-elsewhere.md"


@needs_typescript
def test_the_client_in_typescript_does_what_the_document_says(tmp_path: Path) -> None:
    session = Session(tmp_path)
    try:
        for block in blocks_of(DOCUMENT):
            is_file = block.title in {"shop.py", "use_client.ts"}
            if is_file or block.text.startswith(("$ perdure run", "$ perdure client typescript")):
                session.do(block)
        assert compile_typescript(tmp_path) == ""
        said = run_node(tmp_path, "use_client.js").splitlines()
        assert said == ["5.00", "refused: no unicorns today 409", "[ 'tea' ]", "4.50"]
    finally:
        session.close()
