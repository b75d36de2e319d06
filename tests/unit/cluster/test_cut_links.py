"""A proxy between two processes cuts after N bytes, for every N of a handshake and two frames."""

import asyncio
from pathlib import Path

import pytest
from tests.unit.cluster.wiring import Recorder, new_link, until

from perdure.base.clock import SystemClock
from perdure.base.errors import HandshakeError
from perdure.cluster.frames import Answer, Changed, Frame
from perdure.cluster.link import Link
from perdure.cluster.sockets import SocketNetwork

QUESTIONS: list[Frame] = [Changed("Cart", "anna"), Changed("Cart", "bert")]
ANSWERS: list[Frame] = [Answer(1, b"yes"), Answer(2, b"no")]
ALL = 1 << 30


class Asking(Recorder):
    def opened(self, link: Link) -> None:
        super().opened(link)
        for frame in QUESTIONS:
            link.send(frame)


class Answering(Recorder):
    def received(self, link: Link, frame: Frame) -> None:
        super().received(link, frame)
        link.send(ANSWERS[len(self.frames) - 1])


class Proxy:
    """Passes bytes on; after so many in one of the directions both ends see the end."""

    def __init__(self, address: str, bytes_max: dict[str, int]) -> None:
        self.address = address
        self.left = bytes_max
        self.writers: list[asyncio.StreamWriter] = []

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = self.address.removeprefix("unix:")
        far_reader, far_writer = await asyncio.open_unix_connection(path)
        self.writers = [writer, far_writer]
        await asyncio.gather(
            self._pass(reader, far_writer, "questions"), self._pass(far_reader, writer, "answers")
        )

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str
    ) -> None:
        while data := await reader.read(self.left[direction]):
            self.left[direction] -= len(data)
            writer.write(data)
        for one in self.writers:
            one.close()


async def run_through_proxy(place: Path, bytes_max: dict[str, int]) -> tuple[Asking, Answering]:
    """A link from its beginning to its end, which comes by itself if nothing is cut."""
    network, clock = SocketNetwork(), SystemClock()
    asking, answering = Asking(), Answering()
    asking.on_frame = lambda link, frame: len(asking.frames) < len(ANSWERS) or link.close()
    listener = await network.listen(
        f"unix:{place}/behind", lambda: new_link(answering, dials=False, clock=clock)
    )
    proxy = Proxy(listener.address, bytes_max)
    server = await asyncio.start_unix_server(proxy.take, f"{place}/proxy")
    await network.connect(f"unix:{place}/proxy", lambda: new_link(asking, dials=True, clock=clock))
    await until(lambda: asking.closed_links and answering.closed_links)
    server.close()
    listener.close()
    (place / "proxy").unlink()
    return asking, answering


def check(asking: Asking, answering: Answering) -> None:
    """Whatever was cut: whole frames, in order, and one end for each beginning."""
    assert answering.frames == QUESTIONS[: len(answering.frames)]
    assert asking.frames == ANSWERS[: len(asking.frames)]
    assert len(asking.frames) <= len(answering.frames)
    for end in (asking, answering):
        assert len(end.closed_links) == 1
        assert end.closed_links[0].is_open is False
        was_opened = bool(end.opened_links)
        assert was_opened or isinstance(end.errors[0], HandshakeError | OSError)
        assert was_opened or not end.frames


@pytest.mark.parametrize("direction", ["questions", "answers"])
def test_a_link_cut_anywhere_ends_cleanly_at_both_ends(
    direction: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("s")

    async def body() -> None:
        whole = {"questions": ALL, "answers": ALL}
        asking, answering = await run_through_proxy(place, whole)
        check(asking, answering)
        assert asking.frames == ANSWERS
        length = ALL - whole[direction]
        assert length > 150
        opened = 0
        for count in range(length):
            asking, answering = await run_through_proxy(
                place, {"questions": ALL, "answers": ALL} | {direction: count}
            )
            check(asking, answering)
            assert (asking.frames, answering.frames) != (ANSWERS, QUESTIONS)
            opened += len(asking.opened_links)
        assert 20 < opened < length

    asyncio.run(asyncio.wait_for(body(), 60))
