"""The answer of GET /explain in words. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

Fields = dict[str, Any]

OUTCOMES = {
    "taken": "written to the client at once",
    "waited": "written to the client after it had waited for {detail}: the client is slow",
    "replayed": "written to the client when it came back for it, or caught up",
    "waiting": "waits, for {detail} by now: the client does not take what was written to it",
    "catching_up": "to come: the client is still being given older messages",
    "snapshot": "came before the stream, which began with the newest message of each key",
    "dropped": "dropped: SSE_BUFFER messages waited already. The client was told by a gap (slow_client)",
    "superseded": "superseded: a newer message of its key came while it waited for the client",
    "expired": "expired (ttl, expires_at) before the client took it",
    "missing": "missing: history no longer had it when the client came back. It was told by a gap ({detail})",
    "unsent": "waited for the client until the stream ended. A client that resumes gets it",
    "before": "came before the stream began, which did not ask for earlier messages",
    "after": "came after the stream had ended",
    "other_user": "is for another user",
    "not_followed": "is for a topic that the stream does not follow",
    "forgotten": "not known any more: too much happened to the stream since",
}

VERDICTS = {
    **OUTCOMES,
    "other_user": "is for other users than this one",
    "not_followed": "is for topics that no stream of the user follows",
    "not_connected": "the user had no stream",
    "never_connected": "the user had no stream at all",
    "revoked": "the user had no stream: its token was revoked",
    "ended_by_operator": "the user had no stream: an operator had ended it",
    "refused": "the user had no stream: it was refused ({detail})",
    "rejected": "it came, and could not be delivered to anybody: {detail}",
    "bad_message": "no such message was accepted. One that names the user could not be: {detail}",
    "redis_away": "no process has seen it, and Redis was away: {detail}",
    "unknown_message": "no process has seen it",
}

ENDS = {
    "left": "the client left",
    "write_timeout": "the client took nothing for SSE_WRITE_TIMEOUT_SECONDS",
    "slow_client": "its buffer was full (SSE_SLOW_CLIENT=disconnect)",
    "auth_expired": "its token expired",
    "auth_revoked": "its token was revoked",
    "ended_by_operator": "an operator ended it",
    "draining": "the service stopped",
    "stopping": "the service stopped",
    "rebalancing": "it was moved to another process (SSE_REBALANCE)",
    "overloaded": "there were too many streams",
    "max_stream_seconds": "SSE_MAX_STREAM_SECONDS was over",
}


def lines(answer: Fields) -> Iterator[str]:
    """The explanation, the answer first."""
    story, asked = answer["story"], answer["asked"]
    user = answer["user_id"]
    if answer["id"] is not None:
        yield f"message {answer['id']}, user {user}: {_verdict(story['verdict'])}"
    elif story["verdict"]["code"] == "ok":
        open_now = [one for one in story["streams"] if one["state"] != "ended"]
        yield f"user {user}: {_count(len(open_now), 'stream is', 'streams are')} open"
    else:
        yield f"user {user}: {_verdict(story['verdict'])}"
    yield from _doubts(answer, asked, story)
    for told in story["messages"]:
        yield from _message(told)
    for one in story["streams"]:
        yield from _stream(one)
    if story["more_streams"]:
        yield f"and {_count(story['more_streams'], 'earlier stream', 'earlier streams')}"
    for one in story["refusals"]:
        whose = " (as its token says, which proves nothing)" if one.get("claimed") else ""
        if "holder" in one:
            asked_for = "nobody" if one.get("user") is None else f"user {one['user']}"
            whose = f" (for {asked_for}, with a token that names user {one['holder']})"
        yield f"refused {_at(one['at'])} from {one['address']}{whose}: {one['status']} {one['detail']}"
    for one in story["bad"]:
        which = "that was asked for" if one.get("asked") else "that names the user"
        yield f"bad message {_at(one['at'])}, {one['size']} bytes, {which}: {one['reason']}"
    for one in story["away"]:
        until = f"until {_at(one['ended'])}" if "ended" in one else "and still is"
        yield (
            f"Redis was away from {_at(one['began'])} {until}: {one['why']}. "
            "What was published to a channel then is lost, and each stream was told by a gap"
        )


def _doubts(answer: Fields, asked: Fields, story: Fields) -> Iterator[str]:
    """What the answer does not cover."""
    for node in asked["missing"]:
        yield f"! no answer from {node['host']}, process {node['pid']} ({node['process']})"
    if asked["problem"]:
        yield f"! only one process was asked: {asked['problem']}"
    for process, problem in story["problems"].items():
        yield f"! process {process} gets no messages now: {problem}"
    yield (
        f"{_count(len(asked['nodes']), 'process', 'processes')} asked; messages are known since "
        f"{_at(story['messages_since'])}, streams that ended since {_at(story['streams_since'])}"
    )
    if answer["apart"] and not story["messages"]:
        yield "A message reaches only processes where somebody follows what it is for"


def _message(told: Fields) -> Iterator[str]:
    message = told["message"]
    names = [*(f"user {one}" for one in message["users"]), *(f"topic {one}" for one in message["topics"])]
    more = f" and {message['more']} more" if message.get("more") else ""
    whom = "everybody" if message.get("everybody") else ", ".join(names) + more
    ids = " = ".join(told["ids"]) or "(no id: it had expired when it came)"
    key = f", key {message['key']}" if "key" in message else ""
    yield f"message {_at(message['at'])} {ids}, for {whom}{key}: {_verdict(told['verdict'])}"
    for one in message.get("outcomes", []):
        if one["code"] not in ("before", "after"):
            detail = f"{one['seconds']:.1f} s" if "seconds" in one else ""
            yield f"  stream {one['stream']}: {_text(OUTCOMES, one['code'], detail)}{_when(one)}"


def _stream(one: Fields) -> Iterator[str]:
    follows = [*([f"user {one['user']}"] if one["user"] is not None else []), *one["topics"]]
    came = f", came back with {one['resumed']}" if "resumed" in one else ""
    replayed = f", {one['replayed']} replayed" if one.get("replayed") else ""
    gap = f", began with a gap ({one['gap']})" if "gap" in one else ""
    yield (
        f"stream {one['id']} of {', '.join(follows)}, from {one['address'] or 'an unknown address'}, since "
        f"{_at(one['opened'])}, at process {one['process']}{came}{replayed}{gap}"
    )
    lost = [f"{one[name]} {name}" for name in ("dropped", "superseded", "expired") if one.get(name)]
    if one.get("waiting"):
        lost.append(f"{one['waiting']} waiting since {_at(one['waiting_since'])}")
    if one.get("behind"):
        lost.append(f"{one['behind']} bytes written and not acknowledged")
    if one["slowest"] >= _SLOW_SECONDS:
        lost.append(f"took a message {one['slowest']:.1f} s late")
    if lost:
        yield f"  {', '.join(lost)}"
    if "ended" in one:
        yield f"  ended {_at(one['ended'])}: {ENDS.get(one['why'], one['why'])}"
    elif one["state"] != "live":
        yield f"  {one['state'].replace('_', ' ')}"


_SLOW_SECONDS = 0.1


def _verdict(verdict: Fields) -> str:
    detail = verdict.get("detail", "")
    text = _text(VERDICTS, verdict["code"], detail)
    if verdict["code"] in ("not_connected", "ended_by_operator", "revoked") and detail:
        text += f". Its last stream ended {_at(verdict['at'])}: {ENDS.get(detail, detail)}"
    elif verdict["code"] == "not_connected" and "at" in verdict:
        text += f". Its first stream came {_at(verdict['at'])}"
    return text


def _text(texts: dict[str, str], code: str, detail: str) -> str:
    return texts.get(code, code).format(detail=detail)


def _when(one: Fields) -> str:
    return f", {_at(one['at'])}" if "at" in one else ""


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _at(seconds: float) -> str:
    """Local time, with the day: what is asked about may be of yesterday."""
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
