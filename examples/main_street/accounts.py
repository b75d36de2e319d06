"""Accounts: who may log in. A user's id is the key; no two accounts have one e-mail address.

Hashing a password takes a tenth of a second on purpose, so a thread does it. The turn that waits
for it holds one actor, so guesses come one after another; all other actors go on.
"""

import asyncio
import re
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Annotated

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from perdure import Actor, DomainError, UniqueError, unique

from .sessions import User

PASSWORD_LENGTH_MIN, PASSWORD_LENGTH_MAX = 8, 128
FREE_TRIES = 5
LOCK_MAX_S = 60.0  # long enough to stop guessing, too short to lock somebody out for spite

_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]{1,180}\.[^@\s.]{2,60}")
_HASHER = PasswordHasher()  # argon2id
_NOBODY = _HASHER.hash("no account has this password")
_threads = ThreadPoolExecutor(2, "argon2")  # 64 MiB each: more would let a flood eat the memory


class Refused(DomainError):
    """The form cannot become an account; the message says why."""

    status = 422


class TooManyTries(DomainError):
    """Wrong passwords came too fast for this address, whether or not it has an account."""

    status = 429


def normal_email(text: str) -> str:
    """The one form of an address, whichever way it was typed. Raises Refused."""
    email = unicodedata.normalize("NFKC", text).strip().casefold()
    if not _EMAIL.fullmatch(email) or not email.isprintable():
        raise Refused("That does not look like an e-mail address.")
    return email


class Account(Actor):
    """One person's account. Its key is the user's id."""

    email: Annotated[str | None, unique] = None
    user: User | None = None
    password_hash: str = ""

    async def open(self, email: str, user: User, password: str) -> None:
        """Make this the account of an address. Raises UniqueError if another one has it."""
        if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
            raise Refused(f"Choose {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters.")
        self.email, self.user, self.password_hash = email, user, await _hash(password)

    async def rehash(self, password: str) -> None:
        self.password_hash = await _hash(password)


async def sign_up(email: str, user: User, password: str) -> User:
    """Open an account. Of two who want one address at once, the commit refuses the second."""
    try:
        await Account.at(user.id).open(email, user, password)
    except UniqueError:  # a shop that sends mail would say this there, and only there
        raise Refused("This address has an account already. Log in instead?") from None
    return user


class Tries(Actor, ttl=timedelta(days=1)):
    """Failed tries for one address, which may have no account. A day without any: forgotten."""

    failures: int = 0
    locked_until_s: float = 0.0

    async def log_in(self, password: str) -> User | None:
        """The user, or None: with the same work and the same answer for an unknown address.

        A failure is returned, not raised: an exception would undo the count of failures.
        """
        wait_s = self.locked_until_s - time.time()
        if wait_s > 0:
            raise TooManyTries(f"Too many tries. Wait {wait_s:.0f} seconds, then try again.")
        found = await Account.find(email=self.key)
        known = found.state.password_hash if found else _NOBODY
        if await _is_right(password, known) and found:
            self.forget()
            if _HASHER.check_needs_rehash(known):
                await found.reference.rehash(password)
            return found.state.user
        self.failures += 1
        if self.failures >= FREE_TRIES:
            lock_s = min(2.0 ** min(self.failures - FREE_TRIES, 9), LOCK_MAX_S)
            self.locked_until_s = time.time() + lock_s
        return None


async def _hash(password: str) -> str:
    return await asyncio.get_running_loop().run_in_executor(_threads, _HASHER.hash, password)


async def _is_right(password: str, known: str) -> bool:
    loop, password = asyncio.get_running_loop(), password[:PASSWORD_LENGTH_MAX]
    try:
        return await loop.run_in_executor(_threads, _HASHER.verify, known, password)
    except VerificationError:
        return False
