"""`perdure balance`: what it refuses to begin with."""

import pytest

from perdure.balance.backends import Target
from perdure.cli.balance_options import BalanceOptions, networks, target, trusting
from perdure.cli.failures import Failure


def _options(*trust: str) -> BalanceOptions:
    return BalanceOptions(backends=[], listen="127.0.0.1:0", trust=trust)


def test_a_backend_is_an_address_with_a_weight() -> None:
    assert target("10.0.0.1:80") == Target(name="10.0.0.1:80", host="10.0.0.1", port=80)
    assert target("[::1]:80=3") == Target(name="[::1]:80", host="::1", port=80, weight=3)


@pytest.mark.parametrize("text", ["10.0.0.1", "a:b", "a:1=0", "a:1=x", "a:1=", "a:0", "a:1=1001"])
def test_anything_else_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(Failure) as caught:
        target(text)
    assert text.partition("=")[0] in str(caught.value)
    assert caught.value.hint


def test_only_named_networks_are_trusted() -> None:
    is_trusted = trusting(networks(_options("10.0.0.0/8", "::1/128")))
    assert is_trusted is not None
    assert [is_trusted(one) for one in ("10.1.2.3", "::1", "11.0.0.1")] == [True, True, False]
    assert is_trusted("::ffff:10.1.2.3")
    with pytest.raises(Failure):
        networks(_options("10.0.0.1/8"))
