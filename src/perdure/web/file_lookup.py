"""From the path of a URL to an open file below a directory, or to nothing.

It exists apart from the answer because this is the part that an attacker reaches for.

Invariants:
- A path is cut at its slashes before it is decoded: an encoded slash never becomes a separator.
- No segment begins with a dot, holds a slash, a backslash or a NUL, or is empty.
- What is opened is a regular file that lies below the directory after all links are followed. Who
  may write into the directory while it is served is trusted: a link may be changed between the two.
"""

import mimetypes
import os
import stat
from pathlib import Path
from urllib.parse import unquote_to_bytes

import msgspec

from perdure.web.conditions import Validators
from perdure.web.negotiation import coding_of

INDEX = "index.html"

_VARIANTS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
_FORBIDDEN = frozenset("/\\\0")
# Without the machine's own tables: the same file has the same type everywhere.
_TYPES = mimetypes.MimeTypes()
for _type, _suffixes in {
    "text/javascript": (".js", ".mjs"),
    "text/markdown": (".md",),
    "application/json": (".json", ".map"),
    "application/manifest+json": (".webmanifest",),
    "application/wasm": (".wasm",),
    "font/woff": (".woff",),
    "font/woff2": (".woff2",),
    "image/avif": (".avif",),
    "image/svg+xml": (".svg",),
    "image/webp": (".webp",),
    "image/x-icon": (".ico",),
}.items():
    for _suffix in _suffixes:
        _TYPES.add_type(_type, _suffix)


class OpenFile(msgspec.Struct, frozen=True):
    """A file that is open for reading, and what its answer says about it."""

    descriptor: int
    size_bytes: int
    validators: Validators
    content_type: bytes
    coding: str | None
    has_variants: bool


class FoundDirectory(msgspec.Struct, frozen=True):
    """The path names a directory with an index, and lacks its last slash."""


def segments_of(raw_path: bytes) -> list[str] | None:
    """The decoded segments of the path below a prefix; None where it cannot name a file."""
    segments = []
    for raw in raw_path.removeprefix(b"/").split(b"/"):
        try:
            segment = unquote_to_bytes(raw).decode()
        except UnicodeDecodeError:
            return None
        if segment.startswith(".") or not _FORBIDDEN.isdisjoint(segment):
            return None
        segments.append(segment)
    if segments[-1] == "":
        segments[-1] = INDEX
    return segments if all(segments) else None


def open_file(
    root: str, segments: list[str], accepted: bytes | None
) -> OpenFile | FoundDirectory | None:
    """Open the file, or the variant of it that the client likes best; `root` is a real path."""
    path = os.path.join(root, *segments)
    opened = _open(root, path)
    if opened is None:
        has_index = os.path.isfile(os.path.join(path, INDEX)) and _is_below(root, path)
        return FoundDirectory() if has_index else None
    descriptor, status = opened
    variants = _variants(path, status)
    coding = coding_of(accepted, variants)
    if coding is not None and (variant := _open(root, path + _VARIANTS[coding])) is not None:
        os.close(descriptor)
        descriptor, status = variant
    else:
        coding = None
    return OpenFile(
        descriptor=descriptor,
        size_bytes=status.st_size,
        validators=Validators(_tag(status, coding), int(status.st_mtime)),
        content_type=content_type_of(segments[-1]),
        coding=coding,
        has_variants=bool(variants),
    )


def content_type_of(name: str) -> bytes:
    """The media type by the name's ending."""
    kind, coding = _TYPES.guess_type(name)
    if kind is None or coding is not None:
        return b"application/octet-stream"
    return f"{kind}; charset=utf-8".encode() if kind.startswith("text/") else kind.encode()


def _open(root: str, path: str) -> tuple[int, os.stat_result] | None:
    try:
        real = os.path.realpath(path, strict=True)
        if not _is_below(root, real):
            return None
        # Not blocking: opening a named pipe would wait for its writer.
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        return None
    return descriptor, status


def _is_below(root: str, path: str) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(root)


def _variants(path: str, original: os.stat_result) -> tuple[str, ...]:
    """The codings there are files for; one older than its original is of another version."""
    found = []
    for coding, suffix in _VARIANTS.items():
        try:
            is_fresh = os.stat(path + suffix).st_mtime_ns >= original.st_mtime_ns
        except OSError:
            continue
        if is_fresh:
            found.append(coding)
    return tuple(found)


def _tag(status: os.stat_result, coding: str | None) -> bytes:
    # Strong, since the time has nanoseconds, and each coding has a tag of its own.
    version = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return f'"{version}-{coding}"'.encode() if coding else f'"{version}"'.encode()
