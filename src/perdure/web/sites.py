"""What answers requests that are for no actor: static files by their prefix, then the mounted app.

It exists so that all three ways to run an App have the same one application beside the actors.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from perdure.base.errors import DefinitionError
from perdure.web.asgi_exchange import path_of
from perdure.web.files import Files
from perdure.web.problems import CONTENT_TYPE, problem
from perdure.web.shared import AsgiApp

_NOT_FOUND = problem(404, "not-found", "Nothing is here")


def site_of(
    static: Mapping[str, str | Path], mount: AsgiApp | None, actor_names: Collection[str]
) -> AsgiApp | None:
    """The one application for both; None where there is neither.

    Raises: DefinitionError when a prefix or a directory cannot work.
    """
    if not static:
        return mount
    for prefix, directory in static.items():
        _check(prefix, directory, has_mount=mount is not None)
        if (name := prefix.split("/")[1]) in actor_names:
            raise DefinitionError(f"static: {prefix!r} begins as the actors at /{name} do")
    return _Site(static, mount)


class _Site:
    def __init__(self, static: Mapping[str, str | Path], mount: AsgiApp | None) -> None:
        found = [(prefix.rstrip("/").encode(), Files(path)) for prefix, path in static.items()]
        # The longest prefix first: /assets/big may be another directory than /assets.
        self._files = sorted(found, key=lambda one: len(one[0]), reverse=True)
        self._mount = mount

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = path_of(scope)
            for prefix, files in self._files:
                if path.startswith(prefix + b"/"):
                    await files.answer(path[len(prefix) :], scope, send)
                    return
        if self._mount is not None:
            await self._mount(scope, receive, send)
        elif scope["type"] == "http":
            length = b"%d" % len(_NOT_FOUND)
            headers = [(b"content-type", CONTENT_TYPE), (b"content-length", length)]
            await send({"type": "http.response.start", "status": 404, "headers": headers})
            await send({"type": "http.response.body", "body": _NOT_FOUND})
        else:
            await send({"type": "websocket.close", "code": 1000})


def _check(prefix: str, directory: str | Path, *, has_mount: bool) -> None:
    if not prefix.startswith("/") or (prefix != "/" and prefix.endswith("/")):
        raise DefinitionError(f"static: {prefix!r} must begin with a slash and not end with one")
    if prefix == "/" and has_mount:
        raise DefinitionError("static: files at '/' would hide the mounted app; give them a prefix")
    if not Path(directory).is_dir():
        raise DefinitionError(f"static: there is no directory {directory} for {prefix!r}")
