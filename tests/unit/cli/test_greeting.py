"""The line with which `perdure run` greets."""

import pytest

from perdure.cli.address import bind, bind_row
from perdure.cli.greeting import greeting
from perdure.cli.layout import layout_of
from perdure.cli.options import ServeOptions, options_from_line
from perdure.runtime.place import Place


def _greeting(store: str, web: int | None = None, state: int | None = None) -> str:
    options = ServeOptions(target="shop.py", stores=(store,))
    layout = layout_of(web, state, [store])
    if web == 0:
        return greeting(options, None, (), layout)
    with bind("127.0.0.1:0") as bound:
        told = greeting(options, bound, (), layout)
        return told.replace(f":{bound.getsockname()[1]}", "")


AT = "serving shop.py on http://127.0.0.1"
URL = "postgresql://me:pw@db.internal/shop"


@pytest.mark.parametrize(
    ("store", "web", "state", "line"),
    [
        ("sqlite:data", None, None, f"{AT} (data in data)"),
        ("sqlite:d", 2, None, f"{AT} (2 web, 1 state; data in d)"),
        (URL, 0, 2, "running shop.py (2 state; data in PostgreSQL at db.internal/shop)"),
        ("postgresql:///shop", 1, 0, f"{AT} (1 web; data in PostgreSQL at localhost/shop)"),
        ("postgresql:embedded", None, None, f"{AT} (data in data, an embedded PostgreSQL)"),
        (
            "postgresql:embedded:d",
            2,
            2,
            f"{AT} (2 web, 2 state; data in d, an embedded PostgreSQL)",
        ),
    ],
)
def test_it_says_what_runs_and_where_the_data_are(
    store: str, web: int | None, state: int | None, line: str
) -> None:
    assert _greeting(store, web, state) == f"Perdure is {line}"


def test_it_says_where_each_process_tells_its_metrics() -> None:
    options = ServeOptions(target="shop.py", stores=("memory:",))
    bound = bind_row("127.0.0.1:0", 2, "--metrics")
    ports = [one.getsockname()[1] for one in bound]
    told = greeting(options, None, bound, layout_of(1, None, ["memory:"]))
    for one in bound:
        one.close()
    assert told.endswith(f"; metrics on http://127.0.0.1:{ports[0]}, {ports[1]})")


def test_options_survive_their_way_to_a_process() -> None:
    place = Place("web", "shop-1/web-2", b"\x00\n\xff" * 11, state_at="unix:/x/state")
    options = ServeOptions(target="a\nb.py", stores=("memory:",), is_again=True, place=place)
    line = options.to_line()
    assert line.count(b"\n") == 1
    assert options_from_line(line) == options
