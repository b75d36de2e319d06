"""Where a balancer with these options would send a request, and by which rule; in words.

It computes what the balancer computes, from the same functions. What a balancer knows from its own
experience (who is healthy, how fast, how busy) another process does not: there it names all that
could be meant.
"""

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from perdure.balance.backends import Target
from perdure.balance.policies import PolicyName, hash_of, rendezvous
from perdure.balance.sources import Found
from perdure.base.errors import InvalidKeyError
from perdure.base.keys import key_of_path_segment
from perdure.base.limits import Limits
from perdure.base.shards import shard_of

_POLICIES = {
    "peak-ewma": "the less busy and faster of two drawn at random",
    "least-connections": "whoever has the least under way",
    "round-robin": "one after the other, by weight",
}


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The options that decide."""

    policy: PolicyName = "peak-ewma"
    hash_key: str | None = None
    by_owner: tuple[str, ...] = ()
    is_haproxy: bool = False
    is_tcp: bool = False


def explain(url: str, rules: Rules, found: Found) -> str:
    """Some lines for people: where to, and why.

    Args:
        url: of the request, or only its path.
        found: all backends, as the source has them now.
    """
    path = urlsplit(url).path or "/"
    parts = path.split("/")
    serving = [one for one in found.targets if one.name not in found.draining and one.weight]
    lines = [f"{path}"]
    if rules.is_tcp:
        lines += _by_policy(rules, parts, serving)
    elif len(parts) > 2 and parts[1] in rules.by_owner:
        lines += _by_owner(parts, found)
    else:
        if rules.by_owner:
            told = ", ".join(rules.by_owner)
            lines.append(f"by owner: no, the path is not /TYPE/KEY/… with one of: {told}")
        lines += _by_policy(rules, parts, serving)
    if found.draining:
        lines.append(f"draining, and left out: {', '.join(sorted(found.draining))}")
    return "\n".join(lines)


def _by_owner(parts: Sequence[str], found: Found) -> list[str]:
    try:
        key = key_of_path_segment(parts[2].encode(), Limits().key_bytes_max)
    except InvalidKeyError as error:
        return [f"by owner: {parts[2]!r} is no key: {error}", "→ 400 or 503"]
    shard = shard_of(key)
    lines = [f"by owner: key {key!r} is in shard {shard}"]
    name = found.owners[shard] if found.owners is not None else None
    if name is None:
        reason = "has no owner now, or none on a machine that answers HTTP"
        return [*lines, f"shard {shard} {reason}", "→ 503, and no other backend"]
    return [*lines, f"the owner of shard {shard} is on the machine of {name}", f"→ {name}"]


def _by_policy(rules: Rules, parts: Sequence[str], serving: Sequence[Target]) -> list[str]:
    if not serving:
        return ["no backend takes requests", "→ 503"]
    names = ", ".join(target.name for target in serving)
    if rules.policy != "hash":
        how = _POLICIES[rules.policy]
        return [f"policy {rules.policy}: {how}", f"→ one of: {names}"]
    if rules.is_tcp:
        return ["policy hash: by the client's address, always the same", f"→ one of: {names}"]
    kind, _, name = (rules.hash_key or "").partition(":")
    if kind != "path":
        told = f"policy hash: by the {kind} {name}, which a URL does not tell"
        return [told, f"→ for each value always the same one of: {names}"]
    position = int(name)
    if position >= len(parts):
        return [
            f"policy hash: the path has no part {position}, so it goes like peak-ewma",
            f"→ one of: {names}",
        ]
    key = parts[position]
    if rules.is_haproxy:
        told = f"policy hash: part {position} of the path, {key!r}, on HAProxy's own ring"
        return [told, f"→ always the same one of: {names}"]
    hashed = hash_of(key.encode())
    seeds = [hash_of(target.name.encode()) for target in serving]
    chosen = serving[rendezvous(hashed, seeds, [target.weight for target in serving])]
    return [
        f"policy hash: part {position} of the path, {key!r}, with hash {hashed:016x}",
        f"it scores highest with {chosen.name}, of {len(serving)} backends; when that is down,",
        "with the next, and only these keys move",
        f"→ {chosen.name}",
    ]
