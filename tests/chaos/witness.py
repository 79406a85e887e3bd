"""What one client saw, in its order, whoever wrote the client. It leaves nothing out."""

from __future__ import annotations

import json

import trio

from tests.chaos.keys import Keys, topics_of
from tests.chaos.ledger import Gap, Seen, Sight


class Witness:
    """Notes the events of one client that follows these keys, as they are dispatched."""

    def __init__(self, follows: Keys) -> None:
        self.follows = follows
        self.sights: list[Sight] = []
        self.serials: set[int] = set()
        self.connections = 0
        self.connected = trio.Event()
        self.last_id = ""
        self.heartbeat_seconds = 30.0
        self._replays = 0

    @property
    def attentive(self) -> bool:
        """Whether it reads, or tries to."""
        return True

    def see(self, name: str, data: str, last_id: str) -> None:
        self.last_id = last_id
        if name == "message":
            serial = json.loads(data)["n"]
            self.sights.append(Seen(serial, replayed=self._replays > 0, at=trio.current_time()))
            self.serials.add(serial)
            self._replays -= 1
        elif name == "gap":
            said = json.loads(data)
            self.sights.append(Gap(said["reason"], said["dropped"], trio.current_time()))
        elif name == "connected":
            said = json.loads(data)
            assert said.get("topics", []) == sorted(topics_of(self.follows))
            self._replays = said["replayed"]
            self.heartbeat_seconds = said["heartbeat_seconds"]
            self.connections += 1
            self.connected.set()
