"""Whose models answer: one view of the ensemble for each tenant that has models of its own, one for all the others together.

A tenant without a pointer of its own lives on its group's models or on the generic ones, and shares
their view: its events leave in the
same calls as everybody's. A tenant with a pointer gets a view when it first asks. Until the layers
have its models, its parent's answer,
and every verdict names the release that made it. Views that were asked last stay, so many at most;
each follows its pointer in a
task of its own, so that one tenant's release on its way holds up no other.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from deployments.config.settings import IngressSettings
from deployments.config.tenants import Tenants
from deployments.scoring import wire
from deployments.scoring.batching import MicroBatcher
from deployments.scoring.pipeline import FanOut
from deployments.scoring.release_watcher import ReleaseWatcher
from ensemble.errors import EventError
from ensemble.events import Kind
from ensemble.store.names import Tenant

__all__ = ["View", "Views"]

# whose models a tenant lives on is asked of the disk again after this; as often as the pointers
CHARGE_KEPT_S = 2.0
CHARGE_WITHIN_S = 1.0  # a disk that hangs leaves a tenant on the generic models
TENANTS_REMEMBERED = 4096  # of which the charge is known; a line of memory each

Offered = Callable[
    [Sequence[str], Sequence[wire.EventRequest], Sequence[wire.Verdict | EventError]], None
]
Waiting = tuple[wire.EventRequest, str, float]  # an event, whose it is, and when it came


class View:
    """The ensemble as one tenant, and those who live on its models, see it.

    Args:
        tenant: whose pointer it follows.
        fan_out: asks the layers for that tenant's releases.
        follower: keeps the fan-out on the best of them.
        settings: of batches.
        offer: is told of events, whose each is, and the answers, so that what few layers saw
            gets a second look.
    """

    def __init__(
        self,
        tenant: Tenant,
        fan_out: FanOut,
        follower: ReleaseWatcher,
        settings: IngressSettings,
        offer: Offered,
    ) -> None:
        self.tenant, self.fan_out, self.follower = tenant, fan_out, follower
        self._offer = offer
        self._batchers = {
            (kind, explain): MicroBatcher(
                self._scorer(kind, explain=explain),
                batch_size=settings.events_per_flush,
                in_flight=settings.flushes_in_flight,
            )
            for kind in Kind
            for explain in (False, True)
        }
        self.answering = 0
        """Batches of callers that wait now."""

    async def answer(
        self, event: wire.EventRequest, caller: str, *, explain: bool, since: float
    ) -> wire.Verdict:
        """The verdict of one event of the tenant `caller`, from the batch it travelled in.

        Raises:
            EventError: the event does not pass the door.
        """
        answer = await self._batchers[wire.kind_of(event), explain].submit((event, caller, since))
        if isinstance(answer, EventError):
            raise answer
        return answer

    async def answers(
        self,
        kind: Kind,
        events: Sequence[wire.EventRequest],
        callers: Sequence[str],
        *,
        explain: bool,
        since: float,
    ) -> list[wire.Verdict | EventError]:
        """An answer for each event, in order; what only a part of the ensemble saw is kept for a second look.

        Args:
            kind: of every event.
            events: n of them.
            callers: the tenant that each is of.
            explain: also say what moved the layers.
            since: when the oldest of them came (monotonic seconds).
        """
        self.answering += 1
        try:
            answers = await self._scored(kind, events, explain=explain, since=since)
        finally:
            self.answering -= 1
        self._offer(callers, events, answers)
        return answers

    async def rescore(
        self, kind: Kind, events: Sequence[wire.EventRequest]
    ) -> list[wire.Verdict | EventError]:
        """An answer for each of some events that were answered before."""
        return await self._scored(
            kind, events, explain=False, since=time.monotonic(), is_second_look=True
        )

    def _scorer(
        self, kind: Kind, *, explain: bool
    ) -> Callable[[Sequence[Waiting]], Awaitable[Sequence[wire.Verdict | EventError]]]:
        async def score(waiting: Sequence[Waiting]) -> Sequence[wire.Verdict | EventError]:
            events, callers, came = zip(*waiting, strict=True)
            return await self.answers(kind, events, callers, explain=explain, since=came[0])

        return score

    async def _scored(
        self,
        kind: Kind,
        events: Sequence[wire.EventRequest],
        *,
        explain: bool,
        since: float,
        is_second_look: bool = False,
    ) -> list[wire.Verdict | EventError]:
        batch, places, refused = wire.to_batch(kind, events)
        answers: list[Any] = [refused.get(place) for place in range(len(events))]
        if places:
            scored_at = time.time()  # the date that ages vulnerability data in the layers
            groups = await self.fan_out.score(
                batch, explain=explain, since=since, is_second_look=is_second_look
            )
            elapsed_ms = round((time.monotonic() - since) * 1000.0, 3)
            verdicts = wire.answers(
                batch, groups, explain=explain, elapsed_ms=elapsed_ms, scored_at=scored_at
            )
            for place, answer in zip(places, verdicts, strict=True):
                answers[place] = answer
        return answers


class Views:
    """All views of an ingress, found by tenant.

    Args:
        make: a view that follows a tenant's pointer, not started.
        tenancy: who lives on whose models.
        most: views at once, the home view among them.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        make: Callable[[Tenant], View],
        tenancy: Tenants,
        *,
        most: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make, self._tenancy, self._most, self._clock = make, tenancy, most, clock
        self._views: OrderedDict[Tenant, View] = OrderedDict()  # used last, last
        self._charges: OrderedDict[str, tuple[Tenant, float]] = (
            OrderedDict()
        )  # tenant -> whose models, and when that was asked
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._home: View | None = None

    @property
    def home(self) -> View:
        """The view of the tenant that the settings name.

        Everybody's without models of their own. Always there once started.
        """
        if self._home is None:
            raise RuntimeError("the views are not started")
        charge, _ = self._charges[self._tenancy.generic]
        return self._views.get(charge, self._home)

    @property
    def is_answering(self) -> bool:
        """Whether callers wait for a batch of events now."""
        return any(view.answering for view in self._views.values())

    async def start(self) -> None:
        """Follow the generic pointer from now on; looks once first, but waits for no slow disk."""
        generic = self._tenancy.generic
        charge = await self._charge_on_disk(generic) or generic
        self._home = self._views[charge] = self._make(charge)
        self._charges[generic] = charge, self._clock()
        await self._home.follower.start()

    async def stop(self) -> None:
        """Follow nothing any more."""
        for asking in self._asking.values():
            asking.cancel()
        await asyncio.gather(
            *self._asking.values(),
            *(view.follower.stop() for view in self._views.values()),
            return_exceptions=True,
        )

    async def of(self, tenant: str) -> View:
        """The view that answers a tenant."""
        known = self._charges.get(tenant)
        if known is None:
            await asyncio.shield(self._ask(tenant))
            known = self._charges[tenant]
        elif self._clock() - known[1] >= CHARGE_KEPT_S:
            self._ask(tenant)  # answered by what is known until it is known better
        view = self._views.get(known[0])
        if view is None:
            view = await self._open(known[0])
        self._views.move_to_end(view.tenant)
        return view

    def _ask(self, tenant: str) -> asyncio.Task[None]:
        """Find out on whose models a tenant lives; one look at a time for each."""
        if tenant not in self._asking:
            self._asking[tenant] = asyncio.create_task(self._find_charge(tenant))
        return self._asking[tenant]

    async def _find_charge(self, tenant: str) -> None:
        try:
            owner = Tenant(tenant)
            found = (
                owner if owner in self._views else await self._charge_on_disk(owner)
            )  # a pointer that is gone is its view's business
            known = self._charges.get(tenant)
            self._charges[tenant] = (
                found or (known[0] if known else self.home.tenant),
                self._clock(),
            )
            self._charges.move_to_end(tenant)
            while len(self._charges) > TENANTS_REMEMBERED:
                oldest = next(
                    one for one in self._charges if one not in (tenant, self._tenancy.generic)
                )
                del self._charges[oldest]
        finally:
            del self._asking[tenant]

    async def _charge_on_disk(self, tenant: Tenant) -> Tenant | None:
        """Whose pointer is in charge of a tenant; None where the disk does not say in time."""
        try:
            return await asyncio.wait_for(
                asyncio.to_thread(self._tenancy.charge, tenant), CHARGE_WITHIN_S
            )
        except TimeoutError:
            return None

    async def _open(self, charge: Tenant) -> View:
        """A new view, which its parent's release answers until its own can."""
        view = self._views[charge] = self._make(charge)
        if self.home.fan_out.release.name:
            view.fan_out.serve(self.home.fan_out.release, at_once=True)
        await view.follower.start(waits=False)
        while len(self._views) > self._most:
            oldest = next(
                one for one in self._views.values() if one not in (self._home, self.home, view)
            )
            del self._views[oldest.tenant]
            await oldest.follower.stop()
        return view
