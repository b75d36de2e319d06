"""The plaza: everyone who is logged in walks on one map, 20 ticks a second.

The actor owns the positions; this process owns the sockets. Each tick is one call, with what every
visitor wants, and one frame for all of them. The tick is relaxed: it answers before it is durable,
and a crash may lose the last second of walking, which nobody minds.
"""

import asyncio
import logging
import math
import time
import zlib

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from perdure import Actor, PerdureError, relaxed

from .sessions import User, user_of

log = logging.getLogger("main_street.plaza")

LEFT, RIGHT, TOP, BOTTOM = 40.0, 1560.0, 220.0, 960.0
FOUNTAIN_X, FOUNTAIN_Y = 800.0, 530.0
SPEED = 260.0  # units a second
TICK_S = 0.05
STEP_MAX_S = 0.2  # after a pause people walk on, they do not jump
AWAY_S = 3.0  # unseen for this long, somebody is not drawn any more
PLAYERS_MAX = 1_000  # beyond it, who was away longest is forgotten


class Wish(msgspec.Struct):
    """Where somebody wants to go: a direction (keys), or a place (a tap); keys win."""

    dx: float = 0.0
    dy: float = 0.0
    to: tuple[float, float] | None = None


class Visitor(msgspec.Struct):
    """Somebody whose browser is connected to this process, perhaps in several tabs."""

    user: User
    wish: Wish = msgspec.field(default_factory=Wish)
    tabs: int = 0


class Player(msgspec.Struct):
    """Where somebody is, or was when last seen."""

    name: str
    colour: str
    x: float
    y: float
    seen_at_s: float

    def walk(self, wish: Wish, duration_s: float) -> None:
        dx, dy, reach = wish.dx, wish.dy, math.inf
        if not (dx or dy) and wish.to:
            dx, dy = wish.to[0] - self.x, wish.to[1] - self.y
            reach = math.hypot(dx, dy)
        if length := math.hypot(dx, dy):
            step = min(SPEED * max(duration_s, 0.0), reach) / length
            self.x = round(min(max(self.x + dx * step, LEFT), RIGHT), 1)
            self.y = round(min(max(self.y + dy * step, TOP), BOTTOM), 1)


class Plaza(Actor):
    """One map with everyone who ever walked on it."""

    players: dict[str, Player] = {}

    @relaxed(loss_max_s=1.0)
    async def tick(self, now_s: float, visitors: list[Visitor]) -> dict[str, Player]:
        """Move these visitors to `now_s`, and say where everyone is who was seen lately."""
        for visitor in visitors:
            user = visitor.user
            player = self.players.get(user.id) or _newcomer(user, now_s)
            player.walk(visitor.wish, min(now_s - player.seen_at_s, STEP_MAX_S))
            player.seen_at_s = now_s
            self.players[user.id] = player
        while len(self.players) > PLAYERS_MAX:
            del self.players[min(self.players, key=lambda key: self.players[key].seen_at_s)]
        return {key: p for key, p in self.players.items() if now_s - p.seen_at_s < AWAY_S}


def _newcomer(user: User, now_s: float) -> Player:
    angle = zlib.crc32(user.id.encode()) % 628 / 100  # somewhere around the fountain
    x, y = FOUNTAIN_X + 190 * math.cos(angle), FOUNTAIN_Y + 190 * math.sin(angle)
    return Player(user.name, user.colour, round(x, 1), round(y, 1), now_s)


class Crowd:
    """The sockets of this process. It ticks while there are any."""

    def __init__(self) -> None:
        self._visitors: dict[str, Visitor] = {}
        self._frame: asyncio.Future[str] | None = None  # the next one
        self._clock: asyncio.Task[None] | None = None

    async def welcome(self, socket: WebSocket) -> None:
        """Serve one browser until it goes away or its session ends."""
        user = await user_of(socket)
        await socket.accept()  # a close before it would reach the script as a mere network error
        origin = socket.headers.get("origin", "").partition("://")[2]
        if user is None or origin != socket.headers.get("host"):
            await socket.close(4401)
            return
        await socket.send_json({"you": user.id})
        visitor = self._visitors.setdefault(user.id, Visitor(user))
        visitor.tabs += 1
        sending = asyncio.create_task(self._send_frames(socket))
        try:
            while True:
                visitor.wish = msgspec.json.decode(await socket.receive_text(), type=Wish)
        except (WebSocketDisconnect, msgspec.MsgspecError, RuntimeError):
            pass  # gone, or not one of our pages, or closed by us: the session ended
        finally:
            sending.cancel()
            visitor.wish, visitor.tabs = Wish(), visitor.tabs - 1
            if not visitor.tabs:
                self._visitors.pop(user.id, None)

    async def _send_frames(self, socket: WebSocket) -> None:
        """Send the newest frame, then the one that is newest after that: slow readers skip some."""
        ticks = 0
        try:
            while ticks % 20 or await user_of(socket):  # once a second: is the session still there?
                await socket.send_text(await self._next_frame())
                ticks += 1
            await socket.close(4401)
        except (WebSocketDisconnect, RuntimeError, PerdureError):
            return  # the reading side sees the same, and tidies up

    async def _next_frame(self) -> str:
        if self._frame is None:
            self._frame = asyncio.get_running_loop().create_future()
        if self._clock is None or self._clock.done():
            self._clock = asyncio.create_task(self._tick())
        return await asyncio.shield(self._frame)

    async def _tick(self) -> None:
        due_s = time.monotonic()
        while self._visitors:
            try:
                players = await Plaza.at("main").tick(time.time(), list(self._visitors.values()))
                frame, self._frame = self._frame, None
                if frame:
                    frame.set_result(msgspec.json.encode({"players": players}).decode())
            except PerdureError as error:
                log.warning("tick refused", extra={"error": str(error)})
            due_s = max(due_s + TICK_S, time.monotonic())
            await asyncio.sleep(due_s - time.monotonic())
