"""Path patterns such as `/quote/{sku}`: what they are made of, and which one wins.

Invariants:
- The first part of a pattern is no parameter, so a pattern never takes the paths of others by
  accident, and a request looks only at the patterns that begin as it does.
- No pattern matches what the route to actors matches: that one is asked first, and does not ask.
- Where two patterns match one path, the one that has a fixed part where the other has a parameter
  wins, from left to right.
"""

import re
from collections.abc import Collection
from urllib.parse import quote, unquote_to_bytes

from perdure.base.errors import BadArgumentsError, DefinitionError

_PARAMETER = re.compile(r"\{([^{}]*)\}")


class PathPattern:
    """The compiled form of one pattern; raises DefinitionError when it cannot work."""

    def __init__(self, label: str, path: str) -> None:
        self.text = path
        if not path.startswith("/") or "?" in path or "#" in path:
            raise DefinitionError(f"{label}: {path!r} is no path; write it like '/quote/{{sku}}'")
        self._parts: list[bytes | None] = []  # None: a parameter
        names = []
        for part in path.split("/"):
            if (found := _PARAMETER.fullmatch(part)) and found[1].isidentifier():
                names.append(found[1])
                self._parts.append(None)
            elif "{" in part or "}" in part or part in {".", ".."}:
                raise DefinitionError(
                    f"{label}: {part!r} in {path!r} is neither text nor one {{parameter}}"
                )
            else:
                self._parts.append(quote(part).encode())
        self.names = tuple(names)
        if len(set(names)) < len(names):
            raise DefinitionError(f"{label}: {path!r} has a parameter twice")
        if self._parts[1] in {None, b"-"}:
            raise DefinitionError(
                f"{label}: {path!r} begins with a parameter, or with what is Perdure's own"
            )

    def __str__(self) -> str:
        return self.text

    @property
    def shape(self) -> tuple[int, bytes]:
        """What a path must have to be looked at: so many parts, and this first one."""
        return len(self._parts), self._parts[1] or b""

    @property
    def rank(self) -> tuple[bool, ...]:
        """Sorts a pattern before those that it wins against."""
        return tuple(part is None for part in self._parts)

    @property
    def parts(self) -> tuple[bytes | None, ...]:
        """The same for patterns that differ at most in the names of their parameters."""
        return tuple(self._parts)

    def under(self, segment: str) -> "PathPattern":
        """The same pattern behind one more part."""
        return PathPattern("", f"/{segment}{self.text}")

    def refuse_clash(self, label: str, actor_names: Collection[str]) -> None:
        """Raise DefinitionError if the route to one of these actors would take some path of it."""
        parts = self._parts
        taken = len(parts) == 4 or (len(parts) == 5 and parts[4] in {None, b"live"})
        if taken and parts[1] in {quote(name).encode() for name in actor_names}:
            raise DefinitionError(
                f"{label}: {self.text!r} is among the paths of an actor class of this App"
            )

    def values_of(self, parts: list[bytes]) -> list[bytes] | None:
        """What stands for the parameters in a raw path of the same shape; None if it differs."""
        values = []
        for wanted, part in zip(self._parts, parts, strict=True):
            if wanted is None and part:
                values.append(part)
            elif wanted != part:
                return None
        return values

    def decoded(self, values: list[bytes]) -> dict[str, str]:
        """The parameters by name, percent-decoded; raises BadArgumentsError."""
        texts = {}
        for name, value in zip(self.names, values, strict=True):
            try:
                texts[name] = unquote_to_bytes(value).decode()
            except UnicodeDecodeError:
                raise BadArgumentsError("a part of the path is not UTF-8", name) from None
        return texts
