"""The bank that is tortured: transfers between accounts, and an audit of all of them at once."""

from perdure import Actor, App, DomainError, expose, read, transaction

ACCOUNTS = [f"a{number}" for number in range(1_000)]
OPENING = 100


class Short(DomainError):
    """There is not enough money."""

    status = 409


class Account(Actor):
    """`booked` has the amount of each transfer, and how often it was booked."""

    money: int = OPENING
    booked: dict[str, tuple[int, int]] = {}

    @expose
    @transaction
    async def pay(self, to: str, amount: int, transfer: str) -> int:
        self._book(-amount, transfer)
        await Account.at(to).receive(amount, transfer)
        if self.money < 0:
            raise Short(f"{self.money + amount} is not {amount}")
        return self.money

    async def receive(self, amount: int, transfer: str) -> None:
        self._book(amount, transfer)

    async def give(self, amount: int, transfer: str) -> None:
        self._book(-amount, transfer)
        if self.money < 0:
            raise Short(f"{self.money + amount} is not {amount}")

    def _book(self, amount: int, transfer: str) -> None:
        self.money += amount
        _, times = self.booked.get(transfer, (0, 0))
        self.booked[transfer] = (amount, times + 1)

    @read
    async def view(self) -> tuple[int, dict[str, tuple[int, int]]]:
        return self.money, self.booked


class Bank(Actor):
    """Moves money between others, and looks at all of it."""

    @expose
    @transaction
    async def move(self, source: str, to: str, amount: int, transfer: str) -> None:
        await Account.at(to).receive(amount, transfer)
        await Account.at(source).give(amount, transfer)

    @expose
    @read
    async def audit(self) -> tuple[int, dict[str, list[tuple[int, int]]]]:
        """The sum, and of each transfer what was booked for it, at one moment."""
        total, booked = 0, dict[str, list[tuple[int, int]]]()
        async with transaction(*[Account.at(key) for key in ACCOUNTS]):
            for key in ACCOUNTS:
                money, entries = await Account.at(key).view()
                total += money
                for transfer, entry in entries.items():
                    booked.setdefault(transfer, []).append(entry)
        return total, booked


app = App(Account, Bank)
