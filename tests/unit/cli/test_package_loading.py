"""A file that is part of a package is loaded as that."""

import sys
from pathlib import Path

import pytest

from perdure.cli.loading import load_app


def test_a_file_in_a_package_may_import_its_neighbours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "corner_shop"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "inner" / "__init__.py").touch()
    (package / "things.py").write_text(
        "from perdure import Actor\nclass Thing(Actor):\n    n: int = 0\n"
    )
    (package / "inner" / "app.py").write_text(
        "from perdure import App\nfrom ..things import Thing\napp = App(Thing)\n"
    )
    monkeypatch.setattr(sys, "path", sys.path.copy())
    app = load_app(str(package / "inner" / "app.py"))
    assert [actor_type.name for actor_type in app.actor_types] == ["thing"]
    assert "corner_shop.inner.app" in sys.modules
