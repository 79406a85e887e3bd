"""A client that notices when anybody else's doings reach it, and a reader of the log beside it."""

from __future__ import annotations

import http.client
import json
import re
import secrets

import redis

from tests.support.client import Event, EventParser
from tests.support.process import Service
from trio_sse.delivery.messages import RESERVED_EVENTS

PATIENCE_SECONDS = 15

# What Hypercorn and Quart themselves stumble over. It ends that one connection or request, in one line.
THEIR_OWN = re.compile(
    r"BusyResourceError: another task is currently sending data on this SocketStream"  # pgjones/hypercorn#203
    r"|LocalProtocolError: .*"  # an answer to what h11 had refused already
    r"|ValueError: Invalid IPv6 URL"  # a target such as http://[/
    r"|IndexError: string index out of range"  # a target without a path, such as ?
)


class Canary:
    """One stream of a user of its own. Blocks, so that it can stay open while a test tries one thing after
    another."""

    def __init__(self, service: Service, redis: redis.Redis, stream: str) -> None:
        self.last_id = ""
        self._user = f"canary-{secrets.token_hex(4)}"
        self._service = service
        self._redis = redis
        self._stream = stream
        self._sung = 0
        self._parser = EventParser()
        self._events: list[Event] = []
        self._http = http.client.HTTPConnection("127.0.0.1", service.port, timeout=PATIENCE_SECONDS)
        self._http.request("GET", f"/sse?user_id={self._user}")
        self._response = self._http.getresponse()
        assert self._event().name == "connected"

    def sing(self) -> None:
        """Publish a message by the channel and one by the stream, after all that was published before: both
        come, and nothing else but heartbeats and what is for everybody."""
        due = {self._song("channel"), self._song("stream")}
        self._sung += 1
        for song in sorted(due):
            if '"channel"' in song:
                self._redis.publish(self._service.channel, song)
            else:
                self._redis.xadd(self._stream, {"payload": song})
        while due:
            event = self._event()
            assert event.name not in RESERVED_EVENTS, event
            assert event.id, event
            if self._user in event.data:
                assert event.name == "message", event
                due.remove(event.data)  # a KeyError: it came a second time, or is an old one
            else:
                assert is_for_everybody(event.data), event

    def close(self) -> None:
        self._response.close()
        self._http.close()

    def _song(self, by: str) -> str:
        # With `created_at` it comes as it was published, byte for byte.
        return json.dumps({"user_id": self._user, "by": by, "n": self._sung, "created_at": None})

    def _event(self) -> Event:
        while not self._events:
            data = self._response.read1(262_144)
            assert data, "the stream has ended"
            self._events += [event for event in self._parser.feed(data) if event.name != "heartbeat"]
        event = self._events.pop(0)
        self.last_id = event.id or self.last_id
        return event


def is_for_everybody(data: str) -> bool:
    try:
        users = json.loads(data, parse_int=str)["user_id"]  # int() refuses more than 4300 digits
    except RecursionError:  # nested more deeply than this process can read at this moment
        return True
    return bool(users == "*" or (isinstance(users, list) and "*" in users))


class LogReader:
    """What a service has written to its log since it was last asked."""

    _LINE = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+Z \[(info|warning) *\] (.*)")
    _CONTAINED = re.compile(r"(?:a connection|a request) ended by an error error=(.*)")

    def __init__(self, service: Service) -> None:
        self._file = service._log.open(errors="backslashreplace", newline="\n")
        self._file.seek(0, 2)
        self._text = ""

    def read(self) -> str:
        """All that was not found to be in order yet."""
        self._text += self._file.read()
        return self._text

    def contained(self) -> list[str]:
        """The errors that ended a connection or a request. Any other line must be one of the service's own:
        no traceback, no error, and none that a client or a publisher wrote."""
        *lines, rest = self.read().split("\n")
        errors = []
        for line in lines:
            known = self._LINE.fullmatch(line)
            assert known, f"in the log: {line!r}"
            if contained := self._CONTAINED.fullmatch(known[2]):
                errors.append(contained[1].strip("'\""))
        self._text = rest
        return errors

    def close(self) -> None:
        self._file.close()
