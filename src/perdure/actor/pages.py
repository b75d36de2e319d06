"""`Page`: a part of something long, and the cursor with which it goes on."""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar, overload

import msgspec

Item = TypeVar("Item")
Other = TypeVar("Other")


class Page(msgspec.Struct, Generic[Item], frozen=True):
    """What a query, a `Map` or a `Log` gives at a time; a sequence of its items.

    As the result of an exposed method or a function it is JSON, `{"items": […], "next": "…"}`. If
    that takes the argument `cursor`, a GET also has a `Link` to the next page.
    """

    items: list[Item]
    next: str | None = None  # the cursor of the next page; None: there is nothing behind this one

    def map(self, function: Callable[[Item], Other]) -> "Page[Other]":
        """The page with another form of each item, as a client shall see it."""
        return Page([function(item) for item in self.items], self.next)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)

    def __contains__(self, item: object) -> bool:
        return item in self.items


def is_paged(result_type: Any, arguments_type: type[msgspec.Struct]) -> bool:
    """True for a result that is a Page, of what can be asked for the next one."""
    found = getattr(result_type, "__origin__", result_type)
    return found is Page and "cursor" in arguments_type.__struct_fields__
