"""Checks that effects came about once, and messages in the order in which they were sent."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence


def once(
    acknowledged: Collection[str], unknown: Collection[str], effects: Iterable[str]
) -> list[str]:
    """What is wrong; nothing, if each effect was wanted and came about once.

    Args:
        acknowledged: names of effects whose callers were told that they are done.
        unknown: of effects that may have come about, or not.
        effects: all that are there, one name for each time.
    """
    times = Counter(effects)
    wrong = [f"{name} was acknowledged and is lost" for name in acknowledged if not times[name]]
    wrong += [f"{name} came about {count} times" for name, count in times.items() if count > 1]
    wanted = {*acknowledged, *unknown}
    return wrong + [f"{name} was never asked for" for name in times if name not in wanted]


def in_order(
    sent: Mapping[str, int], arrived: Mapping[str, Sequence[tuple[str, int]]]
) -> list[str]:
    """What is wrong; nothing, if every message arrived once, and in order where it went.

    Args:
        sent: by sender, how many messages it has sent, numbered from 1, to receivers of any choice.
        arrived: by receiver, sender and number of each message, in the order of arrival.
    """
    wrong = []
    for sender, count in sent.items():
        numbers: list[int] = []
        for receiver, messages in arrived.items():
            mine = [number for who, number in messages if who == sender]
            if mine != sorted(mine):
                wrong.append(f"{receiver} got those of {sender} in the order {mine}")
            numbers += mine
        wanted = [f"message {number} of {sender}" for number in range(1, count + 1)]
        wrong += once(wanted, (), [f"message {number} of {sender}" for number in numbers])
    return wrong
