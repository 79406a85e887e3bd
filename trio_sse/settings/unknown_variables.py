"""Variables that look like settings of this service and are none. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping

_PREFIXES = ("SSE_", "REDIS_")

# Variables of others: Kubernetes and Docker links set some for each service whose name begins with `redis` or
# `sse`, and the image of Redis has some about its build.
_OF_OTHERS = re.compile(
    r".*_SERVICE_(HOST|PORT(_\w+)?)"
    r"|.*_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
    r"|\w+_ENV_\w+"
    r"|REDIS_(VERSION|DOWNLOAD_(URL|SHA\w*))"
)
_LINK = re.compile(r"(tcp|udp|sctp)://|/[\w.-]+/[\w.-]+$")


def unknown(environment: Mapping[str, str], names: Collection[str]) -> Iterator[str]:
    """One line for each variable that has a prefix of ours, is none of `names`, and is not known to belong to
    another program. Values are not shown."""
    for variable in sorted(environment):
        name = variable.upper()  # settings are read in any case
        if not name.startswith(_PREFIXES) or name in names or name.removesuffix("_FILE") in names:
            continue
        linked = name.endswith(("_PORT", "_NAME")) and _LINK.match(environment[variable])
        if linked or _OF_OTHERS.fullmatch(name):
            continue
        yield f"{variable} is no setting; the nearest is {difflib.get_close_matches(name, names, 1, 0)[0]}"
