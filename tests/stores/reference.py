"""A ledger that is too simple to be wrong: what the real ones are compared with after each step."""

from collections.abc import Sequence

REFUSED = "refused"
LOST = "lost"
LARGEST = 2**63 - 1  # that a column holds


class Purse:
    """One wallet: what was put in, what is set aside, what was taken; and how far below zero it may go."""

    def __init__(self, credit: int | None, put: int = 0) -> None:
        self.credit = credit
        self.put = put
        self.aside = 0
        self.taken = 0

    @property
    def left(self) -> int:
        return self.put - self.aside - self.taken

    def affords(self, amount: int) -> bool:
        lowest = -LARGEST if self.credit is None else -self.credit
        return self.left - amount >= lowest and self.aside + self.taken + amount <= LARGEST


class Stay:
    """One reservation."""

    def __init__(self, owner: str, purses: Sequence[str], amount: int) -> None:
        self.owner = owner
        self.purses = purses
        self.amount = amount
        self.charged = 0
        self.earned = 0
        self.images = 0
        self.state = "held"
        self.ends = 0  # how often it was captured, less how often that was taken back


class Reference:
    """Accounts that nobody opened are without limit, budgets that nobody opened are empty."""

    def __init__(self) -> None:
        self.purses: dict[str, Purse] = {}
        self.stays: dict[str, Stay] = {}
        self.grants: dict[str, int] = {}

    def hold(self, stay: str, owner: str, purses: Sequence[str], amount: int) -> int | str:
        if stay in self.stays:  # an earlier try of the same
            return amount
        if not all(self._purse(name).affords(amount) for name in purses):
            return REFUSED
        for name in purses:
            self.purses.setdefault(name, self._purse(name)).aside += amount
        self.stays[stay] = Stay(owner, purses, amount)
        return amount

    def earn(self, stay: str, earned: int, images: int) -> int | str:
        found = self.stays.get(stay)
        if found is None or found.state != "held":
            return LOST
        found.earned, found.images = max(0, min(earned, found.amount)), images
        return found.earned

    def unearn(self, stay: str, told: tuple[int, int], before: tuple[int, int]) -> int:
        found = self.stays.get(stay)
        if found is not None and found.state == "held" and (found.earned, found.images) == told:
            found.earned, found.images = before
        return before[0]

    def capture(self, stay: str, charge: int, images: int) -> int | str:
        found = self.stays.get(stay)
        if found is None:
            return LOST
        charge = max(0, min(charge, found.amount))
        if found.state == "held":
            self._move(found, aside=-found.amount, taken=charge)
        elif found.state == "swept":
            if not all(self.purses[name].affords(charge) for name in found.purses):
                return LOST
            self._move(found, aside=0, taken=charge)
        else:
            return found.charged
        found.state, found.charged, found.images, found.ends = "captured", charge, images, found.ends + 1
        return charge

    def release(self, stay: str, charge: int, images: int, after: str = "released") -> int | str:
        found = self.stays.get(stay)
        if found is None or found.state != "held":
            return found.charged if found else 0
        if min(charge, found.amount) > 0:
            return self.capture(stay, charge, images)
        self._move(found, aside=-found.amount, taken=0)
        found.state, found.images = after, images
        return 0

    def revoke(self, stay: str, images: int) -> int | str:
        found = self.stays.get(stay)
        if found is None or found.state not in ("held", "captured"):
            return self.release(stay, 0, images)
        if found.state == "held":
            return self.release(stay, found.earned, found.images)
        left = min(found.earned, found.charged)
        if left and left == found.charged:
            return left
        self._move(found, aside=0, taken=left - found.charged)
        found.charged, found.images = left, images
        if not left:
            found.state, found.ends = "released", found.ends - 1
        return left

    def sweep(self, owner: str) -> None:
        for name, stay in self.stays.items():
            if stay.owner == owner and stay.state == "held":
                self.release(name, stay.earned, stay.images, "swept")

    def grant(self, grant: str, purse: str, amount: int) -> int | str:
        if grant in self.grants:
            return self.grants[grant]
        found = self._purse(purse)
        if amount < 0 and not found.affords(-amount):
            return REFUSED
        self.purses.setdefault(purse, found).put += amount
        self.grants[grant] = amount
        return amount

    def _purse(self, name: str) -> Purse:
        return self.purses.get(name) or Purse(None if name.startswith("account:") else 0)

    def _move(self, stay: Stay, *, aside: int, taken: int) -> None:
        for name in stay.purses:
            self.purses[name].aside += aside
            self.purses[name].taken += taken
