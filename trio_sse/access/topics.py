"""Sets of topics that somebody may read or publish to: names, and patterns that stand for many. Pure.

In a pattern the segment `*` stands for one segment of a name, and `**`, the last one, for one or more.
Neither stands for an empty segment: `orders/*` and `orders/**` do not allow `orders/`.
"""

from __future__ import annotations

from collections.abc import Iterable

from trio_sse.delivery.messages import name_problem
from trio_sse.settings import SettingsError


def entry_problem(entry: str) -> str | None:
    """Why `entry` is neither the name of a topic nor a pattern, or None."""
    if problem := name_problem("topic", entry):
        return problem
    *before, last = entry.split("/")
    if ("*" in last and last not in ("*", "**")) or any("*" in one and one != "*" for one in before):
        return "* is a whole segment, as in orders/*, and ** is the last one, as in orders/**"
    return None


class _Node:
    """What patterns have in common up to a segment, and how they go on."""

    __slots__ = ("after", "ends", "rest", "wild")

    def __init__(self) -> None:
        self.after: dict[str, _Node] = {}
        """How it goes on after a segment that is given."""
        self.wild: _Node | None = None
        """How it goes on after `*`."""
        self.rest = False
        """Whether `**` follows."""
        self.ends = False
        """Whether a pattern ends here."""


class Grants:
    """A set of topics, by names and patterns. Each entry must be one without an `entry_problem`.

    All patterns are followed through a name at once, segment by segment, and never back. They are a tree, so
    a look takes at most one step for each of their segments, whatever they are and however long the name.
    """

    __slots__ = ("_all_names", "_root", "names")

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._root: _Node | None = None
        names = []
        for entry in entries:
            if "*" in entry:
                self._add(entry)
            else:
                names.append(entry)
        self.names = tuple(dict.fromkeys(names))
        """The topics that are granted by name, in order."""
        self._all_names = frozenset(names)

    def __bool__(self) -> bool:
        return bool(self.names) or self._root is not None

    def allows(self, topic: str) -> bool:
        """Whether `topic` is one of them."""
        return topic in self._all_names or (self._root is not None and _matches(self._root, topic))

    def _add(self, pattern: str) -> None:
        if self._root is None:
            self._root = _Node()
        node = self._root
        for segment in pattern.split("/"):
            if segment == "**":
                node.rest = True
                return
            if segment != "*":
                node = node.after.setdefault(segment, _Node())
            else:
                if node.wild is None:
                    node.wild = _Node()
                node = node.wild
        node.ends = True


NOTHING = Grants()


def _matches(root: _Node, topic: str) -> bool:
    segments = topic.split("/")
    filled = len(segments)  # from here on no segment is empty
    while filled and segments[filled - 1]:
        filled -= 1
    nodes = [root]
    for place, segment in enumerate(segments):
        if place >= filled and any(node.rest for node in nodes):
            return True
        following = [node.after[segment] for node in nodes if segment in node.after]
        if segment:
            following += [node.wild for node in nodes if node.wild is not None]
        if not following:
            return False
        nodes = following
    return any(node.ends for node in nodes)


def configured(setting: str, entries: Iterable[str]) -> Grants:
    """The topics that a setting lists. Raises SettingsError, with a line for each entry that is none."""
    listed = tuple(entries)
    wrong = [(entry, problem) for entry in listed if (problem := entry_problem(entry))]
    if wrong:
        raise SettingsError([f"{setting}={entry!r} is not accepted: {problem}." for entry, problem in wrong])
    return Grants(listed)
