"""Runs the shop of docs/how-to/trace-requests.md as one web and two state processes on PostgreSQL,
takes the trace of one request, and draws it. Nothing in the picture is made up."""

import re
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

from tests.faults.collector import Collector, Span
from tests.faults.database import Database
from tests.faults.supervised import Supervised, until

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs/images/trace.svg"
_WIDTH, _ROW, _LEFT, _TOP = 900, 26, 300, 40
_COLOURS = {"web-1": "#1d4ed8", "state-1": "#c2410c", "state-2": "#15803d"}
_SPANS = 9  # web, wire, turn and commits, of both actors
_WARM_UP = 20


def main() -> None:
    """Measure and draw."""
    document = (ROOT / "docs/how-to/trace-requests.md").read_text()
    shop = re.search(r'```python title="shop.py"\n(.*?)```', document, re.DOTALL)
    assert shop is not None
    with (
        tempfile.TemporaryDirectory() as folder,
        Database(settings={"fsync": "on"}) as database,
        Collector() as collector,
    ):
        options = ("--store", database.url, "--web", "1", "--state", "2")
        with Supervised(Path(folder), shop[1], collector.environment, options) as run:
            run.wait_ready()
            spans = _one(run, collector)
            run.process.terminate()
            run.wait()
    PICTURE.write_text(picture(spans))
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}: {len(spans)} spans\n")


def _one(run: Supervised, collector: Collector) -> list[Span]:
    """The spans of a request whose cart and stock have different owners, all of them awake."""
    for number in range(1, 50):
        for turn in range(_WARM_UP):
            trace = f"{number * 100 + turn:032x}"
            headers = {"traceparent": f"00-{trace}-00000000000000aa-01"}
            body = {"sku": f"tea-{number}"}
            assert run.ask("POST", "/cart/alice/add", body, headers)[0] == 200

        def last(trace: str = trace) -> list[Span]:
            spans = collector.of(trace)
            names = [span.name for span in spans]
            done = names.count("group commit") == names.count("commit") == 2
            return spans if done and any(name.startswith("POST") for name in names) else []

        spans: list[Span] = until(last, "the spans")
        if len(spans) == _SPANS:
            return spans
    raise AssertionError("every stock is where the cart is")


def picture(spans: list[Span]) -> str:
    """The spans as a waterfall, in SVG: time goes to the right."""
    begin_ns = spans[0].began_ns
    end_ns = max(span.ended_ns for span in spans)
    height = _TOP + _ROW * len(spans) + 44
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">'
    )
    parts = [
        opening,
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    scale = (_WIDTH - _LEFT - 90) / (end_ns - begin_ns)
    for row, (span, depth) in enumerate(_in_order(spans)):
        y = _TOP + _ROW * row
        x, width = _LEFT + (span.began_ns - begin_ns) * scale, span.ended_ns - span.began_ns
        name = span.name if span.kind == "INTERNAL" else f"{span.name}  ({span.kind})"
        parts.append(_text(12 + 14 * depth, y + 17, name))
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 5}" width="{max(width * scale, 1.5):.1f}" height="16" '
            f'rx="2" fill="{_COLOURS[span.process]}"/>'
        )
        parts.append(_text(x + max(width * scale, 1.5) + 6, y + 17, f"{width / 1e6:.2f} ms"))
    for place, (process, colour) in enumerate(_COLOURS.items()):
        x = _LEFT + 120 * place
        parts.append(f'<rect x="{x}" y="14" width="12" height="12" rx="2" fill="{colour}"/>')
        parts.append(_text(x + 18, 25, process))
    conditions = "one machine with two cores; PostgreSQL with fsync; loopback"
    parts.append(_text(12, height - 14, conditions))
    return "\n".join([*parts, "</svg>", ""])


def _in_order(spans: list[Span], parent: str = "", depth: int = 0) -> list[tuple[Span, int]]:
    """Each span before what hangs below it."""
    known = {span.id for span in spans}
    found: list[tuple[Span, int]] = []
    for span in spans:
        if (span.parent if span.parent in known else "") == parent:
            found += [(span, depth), *_in_order(spans, span.id, depth + 1)]
    return found


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="#18181b">{escape(text)}</text>'


if __name__ == "__main__":
    main()
