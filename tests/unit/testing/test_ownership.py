"""The ownership log sees who commits what is another's, and what rests on the wrong version."""

from perdure.testing.ownership import OwnershipLog

CART = ("cart", "alice")


def test_one_chain_by_rightful_owners_is_right_also_when_the_actor_moves_and_goes() -> None:
    log = OwnershipLog()
    log.committed(0.1, CART, 1, owner=1, entitled=1)
    log.committed(0.2, CART, 2, owner=2, entitled=2)
    log.committed(0.3, CART, None, owner=2, entitled=2)
    log.committed(0.4, CART, 1, owner=2, entitled=2)
    assert not log.wrong
    assert log.moves == 1


def test_a_commit_by_another_than_the_owner_is_seen() -> None:
    log = OwnershipLog()
    log.committed(0.1, CART, 1, owner=1, entitled=2)
    assert "written by 1, but 2 owns it" in log.wrong[0]


def test_a_version_that_skips_or_repeats_is_seen() -> None:
    log = OwnershipLog()
    log.committed(0.1, CART, 1, owner=1, entitled=1)
    log.committed(0.2, CART, 1, owner=1, entitled=1)
    log.committed(0.3, CART, 3, owner=1, entitled=1)
    assert len(log.wrong) == 2


def test_a_message_that_is_taken_twice_is_seen() -> None:
    log = OwnershipLog()
    log.took(0.1, CART, 7, owner=1, entitled=1)
    log.took(0.2, CART, 7, owner=2, entitled=2)
    assert "taken message 7 twice" in log.wrong[0]
