"""The certificate that `--tls-cert` and `--tls-key` name, for every command that serves HTTPS."""

from perdure.cli.failures import Failure
from perdure.web.tls import Certificate


def certificate(chain: str, private_key: str) -> Certificate:
    """Load it; raises Failure, which says what is wrong with which files."""
    try:
        return Certificate(chain, private_key)
    except OSError as error:
        raise Failure(f"--tls-cert {chain} with --tls-key {private_key}: {error}") from None
