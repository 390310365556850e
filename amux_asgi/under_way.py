"""What one generation has while it is under way, and who waits for it."""

from msgspec import Struct

from amux_asgi.admission import Admission, Standing
from amux_asgi.claims import Work
from amux_asgi.generation import Streamed
from amux_asgi.in_flight import Held
from amux_asgi.jobs import Outcome
from amux_asgi.planning import Plan
from amux_asgi.quota import Ledger, MemoryLedger
from amux_asgi.runtime import Runtime


class Job(Struct, frozen=True):
    """What one generation has: what is to be done, and until when; what others may wait for; what runs; its bytes."""

    plan: Plan
    deadline: float
    work: Work
    runtime: Runtime
    held: Held


class Admitted:
    """How the limits stand, and the places that are held by them."""

    def __init__(self, admission: Admission) -> None:
        self.standings: tuple[Standing, ...] = admission.standings
        self._admission: Admission | None = admission

    def leave(self) -> None:
        """Give the places back: at the end, if not before."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.leave()


class Reader:
    """Who waits for a generation, and may leave before it has begun or after it has ended."""

    def __init__(self) -> None:
        self.outcome: Outcome[Streamed] | None = None  # of a job that is not waited for otherwise
        self._work: Work | None = None
        self._gone = False

    def take(self, work: Work) -> None:
        """Note what it waits for, now that it has begun."""
        self._work = work
        if self._gone:
            work.left()

    def leave(self) -> None:
        """Go, perhaps to come back for the answer."""
        self._gone = True
        if self.outcome is not None:
            self.outcome.waited_for = False
        if self._work is not None:
            self._work.left()

    def answer(self) -> None:
        """Note that how it ended was heard."""
        if self._work is not None:
            self._work.answered()


def ledger_of(job: Job) -> Ledger:
    """Give what charges, unless somebody further out does."""
    return MemoryLedger() if job.plan.terms.paid else job.runtime.ledger
