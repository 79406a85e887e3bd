"""What deciding about one request for a stream costs, with and without a token, whole and by steps.

    python benchmarks/admission.py

Prints a Markdown table: microseconds, the least of many short rounds. The steps take turns, so a machine that
slows down slows all of them.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jwt
from werkzeug.sansio.http import parse_cookie

from trio_sse.access.admission import Accepted, Admission
from trio_sse.access.quick_jwt import QuickJWT, prepared_secret
from trio_sse.access.request import read_request
from trio_sse.access.tokens import Verifier
from trio_sse.settings import Settings

ROUNDS, TIMES = 2000, 10
SECRET = "a secret of the back end, long enough"
NAMES = b"""host connection sec-ch-ua-platform user-agent accept cache-control sec-ch-ua origin sec-fetch-site
sec-fetch-mode sec-fetch-dest referer accept-encoding accept-language""".split()
VALUES = b"""sse.example.com keep-alive "Linux" Mozilla/5.0 text/event-stream no-cache "Chromium"
https://sse.example.com same-origin cors empty https://sse.example.com/ gzip en-US""".split()
FIELDS = list(zip(NAMES, VALUES, strict=True))


def steps() -> dict[str, Callable[[], object]]:
    token = jwt.encode({"sub": "7", "exp": int(time.time()) + 3600}, SECRET, "HS256")
    hs256: dict[str, Any] = {"auth": "jwt", "jwt_secret": SECRET}
    cookies = "theme=dark; session=abcdef0123456789; tok=" + token
    ways: dict[str, tuple[dict[str, Any], bytes, list[tuple[bytes, bytes]]]] = {
        "no token": ({}, b"user_id=7", []),
        "token in `Authorization`": (hs256, b"user_id=7", [(b"authorization", f"Bearer {token}".encode())]),
        "token in a cookie": ({**hs256, "jwt_cookie": "tok"}, b"user_id=7", [(b"cookie", cookies.encode())]),
        "token in the query": ({**hs256, "jwt_query": True}, b"access_token=" + token.encode(), []),
    }
    found: dict[str, Callable[[], object]] = {}
    for way, (values, query, more) in ways.items():
        admission, fields = Admission(Settings(**values)), FIELDS + more

        def admit(admission: Admission = admission, query: bytes = query, fields: Any = fields) -> object:
            return admission.admit_now(query, fields, str)

        assert isinstance(admit(), Accepted), way
        found[f"the whole, {way}"] = admit
    plain, verifier = Settings(), Verifier(Settings(**hs256))
    quick, key, hmac = QuickJWT({}), prepared_secret(SECRET, "HS256"), jwt.get_algorithm_by_name("HS256")
    found["query and header fields: `read_request`"] = lambda: read_request(b"user_id=7", FIELDS, plain)
    found["what the token proves: `Verifier`"] = lambda: verifier.verify_now(token)
    found["of that, PyJWT: `QuickJWT.decode`, key prepared"] = lambda: quick.decode(token, key)
    found["PyJWT by itself: `jwt.decode`"] = lambda: jwt.decode(token, SECRET, ["HS256"])
    found["of that, preparing the key: `prepare_key`"] = lambda: hmac.prepare_key(SECRET)
    found["`jwt.get_unverified_header`"] = lambda: jwt.get_unverified_header(token)
    found["`parse_cookie` of werkzeug, three cookies"] = lambda: parse_cookie(cookies)
    return found


if __name__ == "__main__":
    least: dict[str, float] = defaultdict(lambda: float("inf"))
    taken = steps()
    for _ in range(ROUNDS):
        for name, step in taken.items():
            begun = time.perf_counter_ns()
            for _ in range(TIMES):
                step()
            least[name] = min(least[name], (time.perf_counter_ns() - begun) / TIMES / 1000)
    print("| step | us |\n|---|---:|")
    for name, microseconds in least.items():
        print(f"| {name} | {microseconds:.1f} |")
