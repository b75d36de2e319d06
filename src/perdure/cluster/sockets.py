"""The real network: TCP, with TLS or without, and Unix sockets.

Invariants:
- No other user can connect to a Unix socket, not even while it is made.
- Only a socket on which nobody listens is replaced, never another file.
- ConnectionRefusedError means that a machine answered, and that nothing listens there.
"""

import asyncio
import logging
import os
import socket
import ssl
import stat
from pathlib import Path

from perdure.base.ids import new_id
from perdure.cluster.network import Listener, ProtocolFactory

log = logging.getLogger("perdure.cluster")

_UNIX_PATH_BYTES_MAX = 90  # the system's bound is 107, and the socket is made under a longer name
_TLS_HANDSHAKE_S = 5.0


def tls_contexts(cert: Path, key: Path, ca: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts for the server's and the client's side, from files in PEM; each side wants the
    other's certificate.

    The CA must be the cluster's own: whoever has a certificate of it passes. Host names are not
    compared, since members are reached by addresses that come and go.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    for context in (server, client):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(cert, key)
        context.load_verify_locations(ca)
    return server, client


class SocketNetwork:
    """A Network of sockets. TLS, if it is wanted, is for TCP only."""

    def __init__(
        self,
        *,
        server_ssl: ssl.SSLContext | None = None,
        client_ssl: ssl.SSLContext | None = None,
    ) -> None:
        self._server_ssl = server_ssl
        self._client_ssl = client_ssl

    async def listen(self, address: str, factory: ProtocolFactory) -> Listener:
        """See Network. Raises ValueError if the address is none."""
        loop = asyncio.get_running_loop()
        kind, place = _split(address)
        if kind == "unix":
            path = Path(place)
            bound = await loop.run_in_executor(None, _bind_unix, path)
            server = await loop.create_unix_server(factory, sock=bound)
            return _UnixListener(address, server, path)
        host, port = _host_and_port(address, place)
        server = await loop.create_server(
            factory,
            host,
            port,
            ssl=self._server_ssl,
            ssl_handshake_timeout=None if self._server_ssl is None else _TLS_HANDSHAKE_S,
        )
        for one in server.sockets:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # its connections inherit it
        port = server.sockets[0].getsockname()[1]
        return _TcpListener(f"tcp:{_bracketed(host)}:{port}", server)

    async def connect(self, address: str, factory: ProtocolFactory) -> None:
        """See Network. Raises ValueError if the address is none."""
        loop = asyncio.get_running_loop()
        kind, place = _split(address)
        if kind == "unix":
            await loop.create_unix_connection(factory, place)
            return
        host, port = _host_and_port(address, place)
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # One after the other by ourselves: the event loop would make one OSError of several
        # refusals, which then says no longer that nobody listens.
        errors: list[OSError] = []
        for *_, name in found:
            try:
                await self._connect_tcp(str(name[0]), port, factory)
                return
            except OSError as error:
                errors.append(error)
        others = [one for one in errors if not isinstance(one, ConnectionRefusedError)]
        raise (others or errors)[0]

    async def _connect_tcp(self, host: str, port: int, factory: ProtocolFactory) -> None:
        try:
            transport, _ = await asyncio.get_running_loop().create_connection(
                factory,
                host,
                port,
                ssl=self._client_ssl,
                server_hostname=None if self._client_ssl is None else "",
                ssl_handshake_timeout=None if self._client_ssl is None else _TLS_HANDSHAKE_S,
            )
        except ssl.SSLError as error:
            # here, since all others take it for a machine that does not answer, which comes and
            # goes; a certificate does not, and somebody must see to it
            address = f"tcp:{_bracketed(host)}:{port}"
            log.warning("peer failed TLS", extra={"address": address, "error": str(error)})
            raise
        made = transport.get_extra_info("socket")
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _TcpListener:
    def __init__(self, address: str, server: asyncio.AbstractServer) -> None:
        self.address = address
        self._server = server

    def close(self) -> None:
        self._server.close()


class _UnixListener:
    def __init__(self, address: str, server: asyncio.AbstractServer, path: Path) -> None:
        self.address = address
        self._server = server
        self._path = path
        self._made = path.stat()

    def close(self) -> None:
        self._server.close()
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return
        if os.path.samestat(found, self._made):  # and not that of a process that replaced us
            self._path.unlink(missing_ok=True)


def _bind_unix(path: Path) -> socket.socket:
    """A socket that is bound and listens at a path; it gets there by a rename, complete."""
    length = len(os.fsencode(path))
    if length > _UNIX_PATH_BYTES_MAX:
        raise ValueError(
            f"the path of a Unix socket has {length} bytes; {_UNIX_PATH_BYTES_MAX} is the most:"
            f" {path}"
        )
    _refuse_if_used(path)
    made_at = path.with_name(f".{new_id()[:8]}")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.bind(os.fspath(made_at))
        made_at.chmod(0o600)
        bound.listen(128)
        made_at.rename(path)
    except BaseException:
        bound.close()
        made_at.unlink(missing_ok=True)
        raise
    return bound


def _refuse_if_used(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise FileExistsError(f"{path} is there, and is not a socket: choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise OSError(f"another process listens at {path}")


def _split(address: str) -> tuple[str, str]:
    kind, _, place = address.partition(":")
    if kind not in ("tcp", "unix") or not place:
        raise ValueError(f"{address!r} is no address: write tcp:HOST:PORT or unix:PATH")
    return kind, place


def _host_and_port(address: str, place: str) -> tuple[str, int]:
    host, _, port = place.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 0xFFFF:
        raise ValueError(f"{address!r} is no address: write tcp:HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
