"""Why somebody got a message, or did not: from what all processes know. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from trio_sse.admin.explaining import SAME_SECONDS
from trio_sse.admin.reports import (
    AwayReport,
    BadReport,
    MessageReport,
    OutcomeReport,
    RefusalReport,
    Report,
    StreamReport,
)
from trio_sse.delivery.event_ids import parse

GOT = ("taken", "waited", "replayed")

_ORDER = (
    *GOT,
    *("waiting", "catching_up", "snapshot", "dropped", "superseded", "expired", "missing", "unsent"),
    "forgotten",
)
"""What counts, of several streams of a user, from the best on."""

_NOT_HERE = {"before", "after"}
_NOT_FOR = {"not_followed", "other_user"}


class Verdict(msgspec.Struct, omit_defaults=True):
    """The answer. `code` is an outcome (see delivery/outcomes), or one of:

    not_connected     the user had no stream when the message came
    never_connected   the user had none since streams are remembered
    revoked           as not_connected: the last stream had ended because its token was revoked
    ended_by_operator likewise, by POST /disconnect
    refused           as not_connected: the user had been refused; `detail` says why
    rejected          it came, and could not be delivered to anybody, as `detail` says
    bad_message       no message was found; one that names the user could not be read, as `detail` says
    redis_away        no message was found; Redis was away, as `detail` says
    unknown_message   no message was found
    ok                nothing was asked about a message: the user has streams
    """

    code: str
    detail: str = ""
    at: float | None = None
    stream: str = ""


class Told(msgspec.Struct):
    """A message, with what became of it in all processes."""

    message: MessageReport
    ids: list[str]
    """Its ids: each process may have another one."""
    verdict: Verdict


class Story(msgspec.Struct):
    """All that is known of a user or a message."""

    verdict: Verdict
    messages: list[Told]
    streams: list[StreamReport]
    more_streams: int
    refusals: list[RefusalReport]
    bad: list[BadReport]
    away: list[AwayReport]
    messages_since: float
    """All messages from then on are known in all processes."""
    streams_since: float
    problems: dict[str, str]
    """Why no messages can arrive, by process."""


def story(user: str | None, id: str | None, reports: Sequence[Report]) -> Story:  # noqa: A002
    """What the reports of all processes come to."""
    told = [_told(user, same, reports) for same in _grouped(reports)]
    verdict = _of_user(reports)
    if id is not None:
        verdict = told[0].verdict if told else _not_found(reports)
    return Story(
        verdict,
        told,
        sorted([one for each in reports for one in each.streams], key=lambda one: one.opened),
        sum(each.more_streams for each in reports),
        sorted([one for each in reports for one in each.refusals], key=lambda one: one.at),
        _each_once([one for each in reports for one in each.bad]),
        sorted([one for each in reports for one in each.away], key=lambda one: one.began),
        max(each.messages_since for each in reports),
        max(each.streams_since for each in reports),
        {each.node.process: each.problem for each in reports if each.problem is not None},
    )


def _told(user: str | None, same: Sequence[MessageReport], reports: Sequence[Report]) -> Told:
    counts: Counter[str] = Counter()
    for one in same:
        counts.update(one.counts)
    message = msgspec.structs.replace(
        same[0], outcomes=[outcome for one in same for outcome in one.outcomes], counts=dict(counts)
    )
    ids = list(dict.fromkeys(one.id for one in same if one.id))
    return Told(message, ids, _of_message(user, message, reports))


def _each_once(bad: list[BadReport]) -> list[BadReport]:
    """With one channel for all, each process has the same ones."""
    found: list[BadReport] = []
    for one in sorted(bad, key=lambda one: one.at):
        if not any(_is_same(one, other) for other in found):
            found.append(one)
    return found


def _is_same(one: BadReport, other: BadReport) -> bool:
    same = (one.reason, one.size, other.process == one.process) == (other.reason, other.size, False)
    return same and abs(one.at - other.at) <= SAME_SECONDS


def _grouped(reports: Iterable[Report]) -> list[list[MessageReport]]:
    """The reports of each message, the newest message first. Of several that are equal in all processes, each
    process has as many."""
    groups: dict[tuple[object, ...], list[MessageReport]] = {}
    for report in reports:
        seen: dict[tuple[object, ...], int] = {}
        for one in report.messages:  # the newest first
            what = (_entry(one.id),) if one.from_log else (one.fingerprint, one.size)
            seen[what] = seen.get(what, 0) + 1
            groups.setdefault((*what, seen[what]), []).append(one)
    return sorted(groups.values(), key=lambda same: -same[0].at)


def _entry(id: str) -> object:  # noqa: A002
    """What the ids of an entry of the log have in common. Where there is a channel too, each process adds a
    place of its own."""
    position = parse(id)
    return id if position is None or position.entry is None else position.entry


def _of_message(user: str | None, message: MessageReport, reports: Sequence[Report]) -> Verdict:
    if user is None:
        return Verdict("ok")
    judged = [one for one in message.outcomes if one.code in _ORDER]
    if judged:
        best = min(judged, key=lambda one: _ORDER.index(one.code))
        return Verdict(best.code, _detail(best, reports), best.at, best.stream)
    if not (
        message.everybody or user in message.users or any(one.code in _NOT_HERE for one in message.outcomes)
    ):
        return Verdict("not_followed" if message.topics else "other_user")
    return _absent(message.at, reports)


def _absent(at: float, reports: Sequence[Report]) -> Verdict:
    """Why the user had no stream at that time."""
    streams = [one for report in reports for one in report.streams]
    refusals = [one for report in reports for one in report.refusals]
    before = [one for one in streams if one.ended is not None and one.ended <= at]
    last = max(before, key=lambda one: one.ended or 0, default=None)
    since = 0.0 if last is None or last.ended is None else last.ended
    turned_away = [one for one in refusals if one.at >= since]
    if last is not None and last.why == "auth_revoked":
        return Verdict("revoked", _ended(last), last.ended, last.id)
    if turned_away:
        nearest = min(turned_away, key=lambda one: abs(one.at - at))
        return Verdict("refused", _refused(nearest), nearest.at)
    if last is not None:
        code = "ended_by_operator" if last.why == "ended_by_operator" else "not_connected"
        return Verdict(code, _ended(last), last.ended, last.id)
    if streams:
        first = min(streams, key=lambda one: one.opened)
        return Verdict("not_connected", "", first.opened, first.id)
    return Verdict("never_connected", "", max((one.streams_since for one in reports), default=None))


def _not_found(reports: Sequence[Report]) -> Verdict:
    """Why no process knows the message."""
    bad = [one for report in reports for one in report.bad]
    if rejected := [one for one in bad if one.asked]:
        return Verdict("rejected", rejected[-1].reason, rejected[-1].at)
    away = [one for report in reports for one in report.away]
    if away:
        return Verdict("redis_away", away[-1].why, away[-1].began)
    if bad:
        return Verdict("bad_message", bad[-1].reason, bad[-1].at)
    return Verdict("unknown_message", "", max((one.messages_since for one in reports), default=None))


def _of_user(reports: Sequence[Report]) -> Verdict:
    streams = [one for report in reports for one in report.streams]
    here = [one for one in streams if one.ended is None]
    if here:
        return Verdict("ok", "", min(one.opened for one in here))
    now = float("inf")
    return _absent(now, reports)


def _detail(outcome: OutcomeReport, reports: Sequence[Report]) -> str:
    if outcome.code == "missing":
        streams = [one for report in reports for one in report.streams if one.id == outcome.stream]
        return (streams[0].gap or "") if streams else ""
    if outcome.seconds is not None:
        return f"{outcome.seconds:.1f} s"
    return ""


def _ended(stream: StreamReport) -> str:
    return stream.why or ""


def _refused(one: RefusalReport) -> str:
    return f"{one.status}: {one.detail}"
