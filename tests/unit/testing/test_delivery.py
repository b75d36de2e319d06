"""Effects that are lost, doubled or not wanted are seen, and messages out of order."""

from perdure.testing.delivery import in_order, once


def test_effects_that_came_about_once_are_right_and_unknown_ones_need_not_have() -> None:
    assert not once(["a", "b"], ["c", "d"], ["b", "c", "a"])


def test_a_lost_a_doubled_and_an_unwanted_effect_are_seen() -> None:
    wrong = once(["a", "b"], ["c"], ["b", "b", "c", "c", "x"])
    assert [one.split()[0] for one in wrong] == ["a", "b", "c", "x"]


def test_messages_may_be_mixed_with_those_of_others_but_keep_their_order() -> None:
    arrived = {"inbox": [("ann", 1), ("bob", 1), ("ann", 3)], "other": [("ann", 2)]}
    assert not in_order({"ann": 3, "bob": 1}, arrived)


def test_messages_out_of_order_lost_or_doubled_are_seen() -> None:
    assert "in the order [2, 1]" in in_order({"ann": 2}, {"inbox": [("ann", 2), ("ann", 1)]})[0]
    assert "is lost" in in_order({"ann": 2}, {"inbox": [("ann", 2)]})[0]
    assert "2 times" in in_order({"ann": 1}, {"inbox": [("ann", 1)], "other": [("ann", 1)]})[0]
