"""Traces → the collector, while the service runs and once more at its end."""

from __future__ import annotations

import random
from itertools import chain, repeat

import httpx
import structlog
import trio

from trio_sse.counters import Counters, add_to
from trio_sse.delivery.traces import Traces
from trio_sse.http_answers import body_of, told
from trio_sse.tracing.collector import ANSWER_SECONDS, MAX_ANSWER_BYTES, Collector
from trio_sse.tracing.spans import Spans, refused

log = structlog.stdlib.get_logger("trio_sse.tracing.exporter")

GATHER_SECONDS = 1.0
"""How long spans gather before they are sent."""
BATCH = 512
"""Spans in one request."""
_AT_ONCE = 8  # are encoded in about a millisecond
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Between two attempts at a collector that is away."""
LAST_SECONDS = 2.0
"""How long the stop of the service waits for it."""
# "Retryable response codes": https://opentelemetry.io/docs/specs/otlp/#otlphttp-response
_AGAIN = frozenset((429, 502, 503, 504))


class _AwayError(Exception):
    """The collector is to be asked again, after so many seconds at the least."""

    def __init__(self, problem: str, seconds: float = 0.0) -> None:
        super().__init__(problem)
        self.seconds = seconds


class Exporter:
    """Sends what `traces` has finished. While the collector is away it waits there, up to a number, and what
    is over is counted as lost."""

    def __init__(self, traces: Traces, counters: Counters, spans: Spans, collector: Collector) -> None:
        self._traces = traces
        self._counts = counters.traces
        self._spans = spans
        self._collector = collector
        self._sending = b"", 0
        self._well = True

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Then what there is is sent once, if that takes no longer than LAST_SECONDS."""
        async with self._collector.client() as client:
            task_status.started()
            try:
                while True:
                    await self._traces.some.wait()
                    await trio.sleep(GATHER_SECONDS)
                    while await self._next():
                        await self._send_until_taken(client)
            finally:
                with trio.move_on_after(LAST_SECONDS, shield=True):
                    await self._last(client)
                if left := self._sending[1] + len(self._traces.finished):
                    self._lost(left)
                    log.warning("traces are lost", spans=left)

    async def _last(self, client: httpx.AsyncClient) -> None:
        try:
            while self._sending[1] or await self._next():
                await self._send(client)
        except _AwayError as error:
            self._say(str(error))

    async def _next(self) -> bool:
        """Encode the next batch. Returns whether there is one."""
        body, count = bytearray(), 0
        while count < BATCH and (taken := self._traces.take(_AT_ONCE)):
            try:
                encoded, made = self._spans.encode(taken)
            except Exception as error:  # noqa: BLE001  no trace is worth the service
                self._lost(len(taken))
                self._say(f"a span cannot be made: {told(error)[:200]}")
                encoded, made, taken = b"", 0, []
            body += encoded
            count += made
            if made < len(taken):  # the sampler did not want them
                add_to(self._counts, "left_out", len(taken) - made)
            self._sending = bytes(body), count
            await trio.lowlevel.checkpoint()
        return count > 0

    async def _send_until_taken(self, client: httpx.AsyncClient) -> None:
        pauses = chain(PAUSES, repeat(PAUSES[-1]))
        while True:
            try:
                await self._send(client)
            except _AwayError as error:
                self._say(str(error))
                # Those who lost it together do not come back together.
                await trio.sleep(max(next(pauses) * random.uniform(0.5, 1), error.seconds))  # noqa: S311
            else:
                return

    async def _send(self, client: httpx.AsyncClient) -> None:
        """Send what is to be sent. It is lost if the collector does not want it. Raises _AwayError if it is
        to be sent again."""
        body, count = self._sending
        try:
            with trio.fail_after(ANSWER_SECONDS):
                answer, content = await _post(client, self._collector.url, self._collector.body(body))
        except trio.TooSlowError:
            raise _AwayError(f"no whole answer within {ANSWER_SECONDS:g} s") from None
        except Exception as error:  # noqa: BLE001  whatever a server may answer
            raise _AwayError(told(error)[:200]) from None
        if answer.status_code in _AGAIN:
            raise _AwayError(f"the answer is {answer.status_code}", _retry_after(answer))
        self._sending = b"", 0
        over, why = count, f"the answer is {answer.status_code}"
        if answer.is_success:
            over, why = refused(content)
            over = min(max(over, 0), count)
        add_to(self._counts, "exported", count - over)
        self._lost(over)
        self._say(why if over else None)

    def _lost(self, count: int) -> None:
        if count:
            add_to(self._counts, "lost", count)

    def _say(self, problem: str | None) -> None:
        """Log when it begins and when it is over."""
        if problem is not None and self._well:
            log.warning("traces are not exported", collector=self._collector.address, problem=problem)
        elif problem is None and not self._well:
            log.info("traces are exported again", lost=self._counts.get("lost", 0))
        self._well = problem is None


async def _post(client: httpx.AsyncClient, url: str, body: bytes) -> tuple[httpx.Response, bytes]:
    """The answer, and what it says if that is not too long."""
    async with client.stream("POST", url, content=body) as answer:
        return answer, await body_of(answer, MAX_ANSWER_BYTES) or b""


def _retry_after(answer: httpx.Response) -> float:
    given = answer.headers.get("retry-after", "")
    return min(float(given), 300.0) if given.isdecimal() and len(given) < 6 else 0.0
