"""For whoever has SSE_ADMIN_TOKEN, over all processes: explains, shows, ends streams, revokes tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec
import structlog
import trio

from trio_sse.access.revocations import MOST, Revocation, Revocations
from trio_sse.admin.explaining import Explainer, found
from trio_sse.admin.overview import overview
from trio_sse.admin.reports import Ended, Ending, Overview, Question, Report
from trio_sse.admin.verdicts import Story, story
from trio_sse.broker.cluster_map import ClusterMap
from trio_sse.broker.control import Control, Heard, Node
from trio_sse.broker.link import ERRORS
from trio_sse.broker.publisher import UnavailableError
from trio_sse.broker.revoked_tokens import Revoked, RevokedTokens
from trio_sse.delivery.hub import Hub
from trio_sse.delivery.notices import farewell
from trio_sse.delivery.recorder import Recorder
from trio_sse.delivery.stream_record import StreamRecord
from trio_sse.delivery.targets import user_of
from trio_sse.settings import Settings

log = structlog.stdlib.get_logger("trio_sse.admin.administration")

RETURN_SECONDS = 5.0
"""Seconds over which the clients of ended streams spread their reconnects."""

REVOKED_RETURN_SECONDS = 2.0
"""Likewise where the token was revoked: they are refused, and a browser stops for good."""

VIEW_SECONDS = 2.0
"""How often a live view is told what is new."""

EXPLAIN, VIEW, END = "explain", "view", "end"

_T = TypeVar("_T")


class TooManyError(Exception):
    """There are as many revocations as are kept."""


class Asked(msgspec.Struct):
    """Who answered, and who did not."""

    nodes: list[Node]
    missing: list[Node]
    """Processes that gave no answer in time."""
    problem: str | None
    """Why the others could not be asked."""

    @property
    def complete(self) -> bool:
        return not self.missing and self.problem is None


class Explanation(msgspec.Struct):
    """The answer of GET /explain."""

    user_id: str | None
    id: str | None
    at: float
    story: Story
    asked: Asked
    apart: bool
    """A message reaches only processes where somebody follows what it is for."""


class View(msgspec.Struct):
    """What the live view shows: all processes."""

    at: float
    processes: list[Overview]
    asked: Asked
    apart: bool
    """Each process counts the messages that it got. Else each counts all."""


class Outcome(msgspec.Struct):
    """What POST /disconnect and POST /revoke did."""

    ended: int
    asked: Asked
    until: float | None = None
    """Until when a revocation is kept."""


class Administration:
    """What this process does for the others, and what it asks them. Needs an SSE_ADMIN_TOKEN."""

    def __init__(
        self,
        settings: Settings,
        process: str,
        cluster: ClusterMap | None,
        hub: Hub,
        recorder: Recorder,
        revocations: Revocations | None,
        problem: Callable[[], str | None],
    ) -> None:
        """`problem` says why no messages can arrive now."""
        self._apart = settings.by_key or settings.partitioned
        self._hub = hub
        self._recorder = recorder
        self._revocations = revocations
        self._problem = problem
        self._explainer = Explainer(hub, recorder)
        self.viewers = 0
        """How many live views are open here."""
        self._covered = trio.Event()
        self._view: View | None = None
        self._turn = trio.Lock()
        self._control = Control(settings, process, cluster, self._obey, self._beside, self._lost)
        self._revoked: RevokedTokens | None = None
        if revocations is not None:
            self._revoked = RevokedTokens(self._control, self._loaded, self._known_here)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_covered)
            await nursery.start(self._control.run)
            task_status.started()

    async def explain(self, user: str | None, id: str | None) -> Explanation:  # noqa: A002
        """All that is known of a user or of a message."""
        question = Question(user, id)
        own = await self._report(question)
        answers, heard = await self._ask(EXPLAIN, question, Report)
        reports = [own, *answers]
        if id is not None and (known := _known(reports)) is not None:
            again = msgspec.structs.replace(question, fingerprint=known.fingerprint, at=known.at)
            if not own.messages:
                reports[0] = await self._report(again)
            if any(not one.messages for one in answers):
                answers, heard = await self._ask(EXPLAIN, again, Report)
                reports[1:] = answers
        told = story(user, id, reports)
        return Explanation(user, id, time.time(), told, self._asked(heard), self._apart)

    async def view(self) -> View:
        """What all processes do now, or did a moment ago: several viewers share it."""
        async with self._turn:
            if self._view is None or time.time() - self._view.at > VIEW_SECONDS / 2:
                own = await self._overview()
                answers, heard = await self._ask(VIEW, None, Overview)
                self._view = View(time.time(), [own, *answers], self._asked(heard), self._apart)
            return self._view

    async def disconnect(self, ending: Ending) -> Outcome:
        """End streams, wherever they are."""
        own = await self._end(ending)
        answers, heard = await self._ask(END, ending, Ended)
        outcome = Outcome(own + sum(one.streams for one in answers), self._asked(heard))
        log.info(
            "streams ended by an operator",
            streams=outcome.ended,
            **{name: what for name, what in msgspec.structs.asdict(ending).items() if what is not None},
        )
        return outcome

    async def revoke(self, ending: Ending, seconds: float) -> Outcome:
        """Let tokens count no more, for so many seconds, and end their streams. Raises UnavailableError if
        Redis does not take it: then nothing was done. Raises TooManyError."""
        assert self._revoked is not None
        try:
            until = await self._revoked.add(Revoked(*_revocation(ending)), seconds, MOST)
        except ERRORS as error:
            raise UnavailableError(self._control.problem(error), unsure=False) from None
        if until is None:
            raise TooManyError
        outcome = await self.disconnect(msgspec.structs.replace(ending, revoke=until))
        outcome.until = until
        return outcome

    # What the others ask.

    async def _obey(self, kind: str, what: msgspec.Raw) -> object:
        if kind == EXPLAIN:
            return await self._report(msgspec.json.decode(what, type=Question))
        if kind == VIEW:
            return await self._overview()
        if kind == END:
            return Ended(await self._end(msgspec.json.decode(what, type=Ending)))
        return None  # of a newer version

    async def _report(self, question: Question) -> Report:
        return await self._explainer.report(self._control.me, self._problem(), question)

    async def _overview(self) -> Overview:
        return await overview(self._control.me, self._hub, self._recorder, self._problem())

    async def _end(self, ending: Ending) -> int:
        if ending.revoke is not None and self._revocations is not None:
            self._revocations.add(_revocation(ending), ending.revoke)
        name = "ended_by_operator" if ending.revoke is None else "auth_revoked"
        seconds = RETURN_SECONDS if ending.revoke is None else REVOKED_RETURN_SECONDS
        return await self._end_those(_meant_by(ending), name, seconds)

    async def _end_those(self, meant: Callable[[StreamRecord], bool], name: str, seconds: float) -> int:
        """End streams with this notice. Those that open meanwhile look for themselves whether they may."""
        count = 0
        for record in await found(self._recorder.open.values(), meant):
            if record.connection is not None and record.ended is None:
                record.connection.end(farewell(name, seconds))
                count += 1
        return count

    # Revocations that Redis has.

    async def _beside(self) -> None:
        if self._revoked is not None:
            await self._revoked.beat()
        if self._revocations is not None:
            self._revocations.away_since = None

    def _lost(self) -> None:
        if self._revoked is not None:
            self._revoked.lost()
        if self._revocations is not None and self._revocations.away_since is None:
            self._revocations.away_since = time.time()

    def _loaded(self, all_of_them: list[tuple[Revoked, float]]) -> None:
        assert self._revocations is not None
        revocations = self._revocations
        if revocations.replace([(Revocation(*msgspec.structs.astuple(one)), at) for one, at in all_of_them]):
            self._covered.set()

    def _known_here(self) -> list[tuple[Revoked, float]]:
        assert self._revocations is not None
        return [(Revoked(*one), until) for one, until in self._revocations.all()]

    async def _end_covered(self) -> None:
        """End streams whose tokens were revoked while this process was away from Redis, or began."""
        while True:
            await self._covered.wait()
            self._covered = trio.Event()
            await self._end_those(self._is_covered, "auth_revoked", REVOKED_RETURN_SECONDS)

    def _is_covered(self, record: StreamRecord) -> bool:
        assert self._revocations is not None
        if not record.by_token:
            return False
        return self._revocations.covers(user_of(record.follows), record.jti, record.issued_at)

    async def _ask(self, kind: str, what: object, shape: type[_T]) -> tuple[list[_T], Heard]:
        heard = await self._control.ask(kind, what)
        answers = []
        for node, answer in heard.answers:
            try:
                answers.append(msgspec.json.decode(answer, type=shape))
            except msgspec.MsgspecError:  # of another version
                heard.missing.append(node)
        return answers, heard

    def _asked(self, heard: Heard) -> Asked:
        missing = [node.process for node in heard.missing]
        nodes = [node for node, _ in heard.answers if node.process not in missing]
        return Asked([self._control.me, *nodes], heard.missing, heard.problem)


def _meant_by(ending: Ending) -> Callable[[StreamRecord], bool]:
    if ending.stream is not None:
        return lambda record: record.id == ending.stream
    if ending.jti is None and ending.issued_before is None:
        return lambda record: user_of(record.follows) == ending.user
    covers = _revocation(ending).covers
    return lambda record: record.by_token and covers(user_of(record.follows), record.jti, record.issued_at)


def _revocation(ending: Ending) -> Revocation:
    return Revocation(ending.jti, ending.user, ending.issued_before or 0.0)


class _Known(msgspec.Struct):
    fingerprint: tuple[int, int]
    at: float


def _known(reports: Sequence[Report]) -> _Known | None:
    """By what others may know a message that one of them knows by its id."""
    for report in reports:
        for one in report.messages:
            if one.fingerprint:
                return _Known((one.fingerprint, one.size), one.at)
    return None
