"""Tells a torn WAL, which is normal, from a damaged one, which must not pass in silence.

SQLite recovers a WAL up to the first frame that does not fit its checksum and drops the rest. After
a crash that is right: the rest was never acknowledged. After damage it is a silent loss. With
`synchronous=FULL` the two can be told apart: a transaction is synced before the next one is begun,
so a whole transaction that does not count, with more behind it, was once durable.

What remains unseen: damage in the very last transaction, and a WAL that was cut between two
transactions. Nothing in the file tells those from a crash.
"""

import struct
from pathlib import Path

from perdure.base.errors import StoreCorruptError

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}  # the byte order of the checksums


def refuse_damaged_wal(path: Path, valid_frames: int) -> None:
    """Raise StoreCorruptError if the WAL holds durable frames past the `valid_frames` that count.

    Reads headers only. Opening this file is harmless: SQLite puts no locks on it.
    """
    if not path.exists() or path.stat().st_size <= _HEADER_BYTES + _FRAME_HEADER_BYTES:
        return
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if not _is_intact(header):
            raise StoreCorruptError(f"{path}: its header is damaged; {_HINT}")
        page_size, salts = int.from_bytes(header[8:12], "big"), header[16:24]
        frame_bytes = _FRAME_HEADER_BYTES + page_size
        ended = False
        for index in range(valid_frames, path.stat().st_size // frame_bytes):
            file.seek(_HEADER_BYTES + index * frame_bytes)
            frame = file.read(_FRAME_HEADER_BYTES)
            if frame[8:16] != salts:
                continue  # left over from before the WAL was last begun anew
            if ended:
                raise StoreCorruptError(f"{path}: frame {valid_frames + 1} is damaged; {_HINT}")
            ended = frame[4:8] != b"\0\0\0\0"  # the size of the database marks a commit


_HINT = "acknowledged turns behind it cannot be read: restore a backup, or remove the file"


def _is_intact(header: bytes) -> bool:
    order = _MAGIC.get(int.from_bytes(header[:4], "big"))
    if order is None:
        return False
    words = struct.unpack(f"{order}6I", header[:24])
    first = second = 0
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return (first, second) == struct.unpack(">2I", header[24:32])
