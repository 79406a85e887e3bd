"""Exits with 0 if the service in this container answers GET /healthz, else with 1 and one line: why not."""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

SECONDS = 5
"""Less than the time-out of HEALTHCHECK, so that the reason is told."""


def problem(environment: Mapping[str, str]) -> str | None:
    """Why the service is not healthy, or None. Reads SSE_PORT and whether there is SSE_TLS_CERT."""
    port = environment.get("SSE_PORT") or "8085"
    connection: http.client.HTTPConnection
    if environment.get("SSE_TLS_CERT"):
        # It asks itself: the name in the certificate is that of the site.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", int(port), timeout=SECONDS, context=context)
    else:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=SECONDS)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        body = answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"GET /healthz at port {port}: {error!r}"
    finally:
        connection.close()
    return None if answer.status == 200 else f"GET /healthz: {answer.status} {body}"


if __name__ == "__main__":
    sys.exit(problem(os.environ))
