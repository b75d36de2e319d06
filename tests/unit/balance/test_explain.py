"""Where a request goes, in words; and that it is true."""

import pytest

from perdure.balance.backends import Backends
from perdure.balance.explain import Rules, explain
from perdure.balance.policies import hash_of
from perdure.balance.sources import Found, into, target_of
from perdure.base.shards import SHARDS, shard_of

A, B, C = "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"
FOUND = Found((target_of(A), target_of(B), target_of(C)), frozenset({C}))
OWNERS = tuple(A if shard % 2 else B for shard in range(SHARDS))


def test_an_actors_request_is_explained_by_its_owner() -> None:
    found = Found(FOUND.targets, owners=OWNERS)
    text = explain("http://shop/cart/a%2Fb/add?x=1", Rules(by_owner=("cart",)), found)
    shard = shard_of("a/b")
    assert f"key 'a/b' is in shard {shard}" in text
    assert text.endswith(f"→ {OWNERS[shard]}")
    text = explain("/other/x/y", Rules(by_owner=("cart",)), found)
    assert "by owner: no" in text
    assert f"→ one of: {A}, {B}, {C}" in text


def test_without_an_owner_it_is_503_for_nobody_else() -> None:
    for owners in (None, (None,) * SHARDS):
        text = explain(
            "/cart/x/add", Rules(by_owner=("cart",)), Found(FOUND.targets, owners=owners)
        )
        assert "→ 503, and no other backend" in text


def test_a_hash_is_explained_as_the_balancer_computes_it() -> None:
    backends = Backends("hash")
    into(backends)(FOUND)
    rules = Rules(policy="hash", hash_key="path:2")
    seen = set()
    for key in ("k1", "k2", "k3", "k4", "k5", "k6", "k7", "k8"):
        chosen = backends.choose(hash_of(key.encode()))
        assert chosen is not None
        seen.add(chosen.target.name)
        assert f"→ {chosen.target.name}\n" in explain(f"/cart/{key}/add", rules, FOUND)
    assert seen == {A, B}
    assert "has no part 2" in explain("/cart", rules, FOUND)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (Rules(), "the less busy and faster of two"),
        (Rules(policy="round-robin"), "one after the other"),
        (Rules(policy="hash", hash_key="header:x-user"), "by the header x-user"),
        (Rules(policy="hash", is_tcp=True), "by the client's address"),
        (Rules(policy="hash", hash_key="path:1", is_haproxy=True), "HAProxy's own ring"),
    ],
)
def test_what_cannot_be_known_outside_names_all_that_may_be_meant(rules: Rules, said: str) -> None:
    text = explain("/", rules, FOUND)
    assert said in text
    assert f"one of: {A}, {B}\n" in text
    assert text.endswith(f"left out: {C}")


def test_without_a_backend_it_is_503() -> None:
    assert "→ 503" in explain("/", Rules(), Found((target_of(A),), frozenset({A})))
