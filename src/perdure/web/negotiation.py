"""Which content coding a client wants (RFC 9110, 12.5.3). Pure functions.

Invariants:
- A field that cannot be understood asks for nothing: the plain form is always right.
"""

import re

_ELEMENT = re.compile(
    r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*[qQ]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?))?"
)
_ELEMENTS_MAX = 32


def coding_of(accepted: bytes | None, offered: tuple[str, ...]) -> str | None:
    """The best of the offered codings, which stand in our order of preference; None: plain.

    Of those that the client likes equally the first offered is taken. The plain form wins only
    where the client says that it is liked better.
    """
    if not accepted or not offered:
        return None
    weights = _weights(accepted.decode("latin-1"))
    others = weights.get("*", 0.0)
    best, best_weight = None, 0.0
    for coding in offered:
        weight = weights.get(coding, weights.get(f"x-{coding}", others))
        if weight > best_weight:
            best, best_weight = coding, weight
    return best if best_weight >= weights.get("identity", 0.0) else None


def _weights(accepted: str) -> dict[str, float]:
    elements = accepted.split(",")
    if len(elements) > _ELEMENTS_MAX:
        return {}
    weights: dict[str, float] = {}
    for element in elements:
        found = _ELEMENT.fullmatch(element.strip())
        if found is not None:
            weights[found[1].lower()] = float(found[2] or 1)
    return weights
