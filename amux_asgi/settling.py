"""What a generation is held for, and what came of it in money and in facts: for the ledger and for the usage row."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from amux_asgi.asking import MAYBE_PAID, Sent
from amux_asgi.errors import End, StorageUnavailableError
from amux_asgi.planning import Plan
from amux_asgi.pricing import NANO, Prices
from amux_asgi.quota import Answer, Attempt, Ledger, Order, Settlement, fresh_id
from amux_asgi.wallets import account_wallet

PREFIX: Final = "gen_"
UNBOUNDED: Final = 1_000 * NANO  # held where nobody can say the most; only accounts without limit may ask for that

logger: logging.Logger = logging.getLogger("amux_asgi")


class Settler:
    """Says what generations cost, ours and the vendors' price; `now` is Unix time in milliseconds."""

    def __init__(self, prices: Prices, *, now: Callable[[], int]) -> None:
        self._prices = prices
        self._vendors = Prices()  # what the vendors themselves take
        self._now = now

    def now(self) -> int:
        """Give Unix time in milliseconds."""
        return self._now()

    def order(self, plan: Plan) -> Order:
        """Say what is to be held."""
        now = self._now()
        principal = plan.principal
        return Order(
            id=fresh_id(PREFIX, now),
            account=principal.account,
            key=principal.key,
            budget=None if plan.terms.paid else principal.budget,
            amount=UNBOUNDED if plan.cost is None else plan.cost.most,
            begun=now,
            model=plan.model,
            request_id=plan.terms.request_id,
        )

    def settled(
        self, plan: Plan, sent: Sent, delivered: int, attempts: Sequence[Attempt]
    ) -> tuple[int | None, Settlement]:
        """Say what it did cost, `None` if nobody said what the model costs, and how it ended with so many pictures.

        Of what had a price, and gets none for its answer, the price is the most. Of pictures that were made and cannot
        be delivered the client pays nothing, though their tokens are told in one.
        """
        candidate, adapted = sent.choice.candidate, sent.choice.adapted
        images, usage = sent.images, sent.images.tokens()
        ours = self._prices.rate(plan.model, candidate.model, candidate.rules)
        theirs = self._vendors.rate(candidate.rules, candidate.rules)
        cost = theirs.cost(adapted.request, images, usage)
        price = cost
        if ours.priced is not theirs.priced or not adapted.sure:
            price = ours.cost(adapted.request, images, usage, sure=adapted.sure)
        made = len(images.data)
        if price is None:
            price = None if plan.cost is None else -(-plan.cost.most * made // (plan.request.n or 1))
        if price is not None and delivered < made:
            price = -(-price * delivered // made)
        return price, Settlement(
            ended=self._now(),
            charged=price or 0,
            cost=None if any(attempt.end == _UNKNOWN for attempt in attempts) else cost,
            channel=candidate.channel.name,
            attempts=tuple(attempts),
            images=delivered,
            input_tokens=0 if usage is None else _counted(usage.input_tokens),
            output_tokens=0 if usage is None else _counted(usage.output_tokens),
        )

    def joined(self, parts: Sequence[Settlement], attempts: Iterable[Attempt]) -> Settlement:
        """Say how it ended with the pictures of all parts, or with none of any."""
        attempts = tuple(attempts)
        ends = {attempt.end for attempt in attempts}
        costs = [part.cost for part in parts]
        known = [cost for cost in costs if cost is not None]
        unknown = _UNKNOWN in ends if parts else bool(ends.intersection(MAYBE_PAID))
        return Settlement(
            ended=self._now(),
            charged=sum(part.charged for part in parts),
            cost=None if unknown or len(known) < len(costs) else sum(known),
            channel=parts[-1].channel if parts else None,
            attempts=attempts,
            images=sum(part.images for part in parts),
            input_tokens=sum(part.input_tokens for part in parts),
            output_tokens=sum(part.output_tokens for part in parts),
        )


async def capture(ledger: Ledger, order: Order, settlement: Settlement, answer: Answer | None) -> None:
    """Charge, and say so where it cost more than was held.

    Raises:
        StorageUnavailableError: nothing was charged, or less, since it was ended before: for what was told of by then.
    """
    charged = await ledger.capture(order, settlement, answer)
    if charged < min(settlement.charged, order.amount):
        raise StorageUnavailableError("the gateway was away for too long to charge for this", retry=False)
    if settlement.charged > charged:
        logger.warning("%s: undercharged, it cost more than was held for it", order.id)


async def check_unlimited(ledger: Ledger, plan: Plan) -> None:
    """Let only those have what has no price who may spend without limit.

    Raises:
        ModelUnpricedError: the account or the key has a limit.
    """
    wallet = await ledger.get(account_wallet(plan.principal.account))
    if plan.principal.budget is not None or (wallet is not None and wallet.credit is not None):
        raise plan.unpriced()


def _counted(tokens: int) -> int:
    """Take an upstream's count only if it can be one."""
    return tokens if 0 <= tokens <= _MOST_TOKENS else 0


_UNKNOWN: Final = End.UNKNOWN.value
_MOST_TOKENS: Final = 10**12
