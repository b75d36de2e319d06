"""Listening addresses: reading them, binding them, and who could reach them."""

import errno
import ipaddress
import socket

from perdure.cli.failures import UNAVAILABLE, Failure

_BACKLOG = 2048


def bind(listen: str) -> socket.socket:
    """A listening socket on `HOST:PORT` or `[IPV6]:PORT`; raises Failure."""
    host, port = _split(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(_BACKLOG)
    except socket.gaierror as error:
        raise Failure(f"{host} is not an address of this machine ({error.strerror})") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Failure(
                f"port {port} on {host} is in use",
                f"stop what uses it, or choose another: --listen {host}:{port + 1}",
                exit_code=UNAVAILABLE,
            ) from error
        raise Failure(
            f"cannot listen on {listen}: {error.strerror}", exit_code=UNAVAILABLE
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """How a browser on this machine reaches the socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_loopback(bound: socket.socket) -> bool:
    """True when only this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0].partition("%")[0]).is_loopback


def _split(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65_535:
        raise Failure(f"{listen!r} is not HOST:PORT", "for example --listen 127.0.0.1:8000")
    return host.strip("[]") or "127.0.0.1", int(port)
