"""Accounts: who may log in. The actor's key is the e-mail address in its normal form.

Hashing a password takes a tenth of a second on purpose, so a thread does it. The turn that waits
for it holds this one account, so guesses come one after another; all other actors go on.
"""

import asyncio
import re
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from perdure import Actor, DomainError

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
    """One person's account, or only the count of failed tries for an address without one."""

    user: User | None = None
    password_hash: str = ""
    failures: int = 0
    locked_until_s: float = 0.0

    async def sign_up(self, user: User, password: str) -> User:
        if not PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX:
            raise Refused(f"Choose {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters.")
        if self.user:  # a shop that sends mail would say this there, and only there
            raise Refused("This address has an account already. Log in instead?")
        self.password_hash = await _hash(password)
        self.user, self.failures, self.locked_until_s = user, 0, 0.0
        return user

    async def log_in(self, password: str) -> User | None:
        """The user, or None: with the same work and the same answer for an unknown address.

        A failure is returned, not raised: an exception would undo the count of failures.
        """
        wait_s = self.locked_until_s - time.time()
        if wait_s > 0:
            raise TooManyTries(f"Too many tries. Wait {wait_s:.0f} seconds, then try again.")
        if await _is_right(password, self.password_hash or _NOBODY) and self.user:
            self.failures = 0
            if _HASHER.check_needs_rehash(self.password_hash):
                self.password_hash = await _hash(password)
            return self.user
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
