"""Gift balances: money that moves from one neighbour to another, wholly or not at all."""

import re

from perdure import Actor, DomainError, read, transaction

from .accounts import Account

WELCOME_CENTS = 1_000
_AMOUNT = re.compile(r"([0-9]{1,6})(?:[.,]([0-9]{1,2}))?")


class GiftRefused(DomainError):
    """Not an amount, not enough, or nobody to give it to."""

    status = 422


class Wallet(Actor):
    """What somebody may give away. Its key is the user's id."""

    cents: int = WELCOME_CENTS

    async def take(self, cents: int) -> None:
        if cents > self.cents:
            raise GiftRefused("You do not have that much.")
        self.cents -= cents

    async def put(self, cents: int) -> None:
        self.cents += cents

    @read
    async def balance_cents(self) -> int:
        return self.cents


async def give(giver_id: str, email: str, cents: int, request_id: str | None) -> None:
    """Move an amount to whoever has this address. Sent twice under one `request_id`: moved once.

    Naming both wallets locks them in one order, so that two who give to each other at the same
    moment never wait for each other in a circle.
    """
    receiver = await Account.find(email=email)
    if receiver is None or receiver.key == giver_id:
        raise GiftRefused("Nobody else on this street has that address.")
    async with transaction(Wallet.at(giver_id), Wallet.at(receiver.key)):
        await Wallet.at(giver_id, request_id=request_id).take(cents)
        await Wallet.at(receiver.key, request_id=request_id).put(cents)


def cents_of(text: str) -> int:
    """The amount that somebody typed, with a point or a comma. Raises GiftRefused."""
    found = _AMOUNT.fullmatch(text.strip())
    cents = int(found[1]) * 100 + int((found[2] or "").ljust(2, "0")) if found else 0
    if not cents:
        raise GiftRefused("Give an amount like 2.50.")
    return cents
