"""How `perdure run` faces its clients: TLS, trusted proxies, the access log; read and checked."""

import ipaddress
from pathlib import Path

import msgspec

from perdure.cli.failures import NO_INPUT, Failure


class FrontOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What a process that serves requests was told about those who send them."""

    certificate: str | None = None
    private_key: str | None = None
    trusted: tuple[str, ...] = ()  # networks whose X-Forwarded-For is believed
    access_log: bool = False

    @property
    def scheme(self) -> str:
        """What the URLs of this server begin with."""
        return "https" if self.certificate else "http"

    @property
    def needs_edge(self) -> bool:
        """Whether each request has to be looked at."""
        return self.access_log or bool(self.trusted)


def check_front(front: FrontOptions) -> None:
    """Raise Failure if these options cannot work."""
    files = {"--tls-cert": front.certificate, "--tls-key": front.private_key}
    missing = [option for option, path in files.items() if path is None]
    if len(missing) == 1:
        raise Failure(f"TLS needs {missing[0]} too")
    for option, path in files.items():
        if path is not None and not Path(path).is_file():
            raise Failure(f"{option}: there is no file {path}", exit_code=NO_INPUT)
    for network in front.trusted:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise Failure(
                f"--trust-proxy {network}: {error}",
                "use a network such as 10.0.0.0/8, or an address",
            ) from None
