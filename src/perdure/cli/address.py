"""Listening addresses: reading them, binding them, and who could reach them."""

import errno
import ipaddress
import socket

from perdure.cli.failures import UNAVAILABLE, Failure

_BACKLOG = 2048
PORT_MAX = 65_535


def bind(listen: str, option: str = "--listen") -> socket.socket:
    """A listening socket on `HOST:PORT` or `[IPV6]:PORT`; raises Failure, which names the option
    that asked for it."""
    host, port = split(listen, f"{option} 127.0.0.1:8000")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError: a name too long for DNS
        reason = getattr(error, "strerror", None) or "no such name"
        raise Failure(f"{host} is not an address of this machine ({reason})") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except OSError as error:
        bound.close()
        raise _refusal(error, option, host, port) from error
    return bound


def bind_row(first: str, count: int, option: str) -> list[socket.socket]:
    """Listening sockets on ports that follow each other, or on any if the first one is 0.

    Raises Failure; then none is bound.
    """
    host, port = split(first, f"{option} 127.0.0.1:9100")
    bound: list[socket.socket] = []
    try:
        for number in range(port, port + count) if port else [0] * count:
            bound.append(bind(joined(host, number), option))
    except Failure:
        for one in bound:
            one.close()
        raise
    return bound


def url_of(bound: socket.socket) -> str:
    """How a browser on this machine reaches the socket."""
    host, port = bound.getsockname()[:2]
    return f"http://{joined(host, port)}"


def is_loopback(bound: socket.socket) -> bool:
    """True when only this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def is_any_address(host: str) -> bool:
    """True for `0.0.0.0` and `::`, where one can listen but which nobody can reach."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return False


def split(text: str, example: str) -> tuple[str, int]:
    """The two parts of `HOST:PORT` or `[IPV6]:PORT`; raises Failure, with the example as a hint."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdecimal()) or int(port) > PORT_MAX:
        raise Failure(f"{text!r} is not HOST:PORT", f"for example {example}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)


def joined(host: str, port: int) -> str:
    """`HOST:PORT`, or `[IPV6]:PORT`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _refusal(error: OSError, option: str, host: str, port: int) -> Failure:
    if error.errno == errno.EADDRINUSE:
        other = joined(host, port % PORT_MAX + 1)
        hint: str | None = f"stop what uses it, or choose another: {option} {other}"
        return Failure(f"port {port} on {host} is in use", hint, exit_code=UNAVAILABLE)
    hint = "ports below 1024 are for root" if error.errno == errno.EACCES else None
    return Failure(
        f"cannot listen on {host} port {port}: {error.strerror}", hint, exit_code=UNAVAILABLE
    )
