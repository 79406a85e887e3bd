"""sse-starlette on uvicorn with uvloop, the same contract: a queue of 10 per client.

Messages are dropped and counted when it is full. Run with `uvicorn --loop uvloop --http httptools
starlette_service:app`. Environment: REDIS_PORT, SSE_HEARTBEAT_SECONDS, SSE_JWT_SECRET.
"""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import jwt
from redis.asyncio import Redis
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

BUFFER = 10
HEARTBEAT_SECONDS = int(os.environ.get("SSE_HEARTBEAT_SECONDS", "30"))
SECRET = os.environ.get("SSE_JWT_SECRET", "")

clients: dict[str, set[asyncio.Queue[bytes]]] = defaultdict(set)
state = {"subscribed": False, "delivered": 0, "dropped": 0}


async def subscribe() -> None:
    redis = Redis(host="127.0.0.1", port=int(os.environ["REDIS_PORT"]))
    async with redis.pubsub() as pubsub:
        await pubsub.subscribe("notifications")
        async for message in pubsub.listen():
            if message["type"] == "message":
                deliver(message["data"])
                state["delivered"] += 1
                # Many messages come in one read, and listen() does not pause between them: a turn for the
                # writers after half a queue, or every queue would overflow.
                if state["delivered"] % (BUFFER // 2) == 0:
                    await asyncio.sleep(0)
            else:
                state["subscribed"] = True


def deliver(payload: bytes) -> None:
    """Make the event's bytes once, however many clients get them."""
    event = b"data: " + payload + b"\n\n"
    for queue in clients.get(str(json.loads(payload)["user_id"]), ()):
        try:
            queue.put_nowait(event)
        except asyncio.QueueFull:
            state["dropped"] += 1


async def events(user: str) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[bytes] = asyncio.Queue(BUFFER)
    clients[user].add(queue)
    try:
        yield b"event: connected\ndata: {}\n\n"
        while True:
            event = await queue.get()
            if queue.empty():
                yield event
            else:  # what is queued leaves in one write
                yield b"".join([event, *(queue.get_nowait() for _ in range(queue.qsize()))])
    finally:
        clients[user].discard(queue)


async def stream(request: Request) -> Response:
    if not SECRET:
        user = request.query_params["user_id"]
    else:
        try:
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            user = jwt.decode(token, SECRET, algorithms=["HS256"])["sub"]
        except (jwt.InvalidTokenError, KeyError):
            return Response(status_code=401)
    return EventSourceResponse(events(user), ping=HEARTBEAT_SECONDS)


async def healthz(request: Request) -> Response:
    return Response(status_code=200 if state["subscribed"] else 503)


async def stats(request: Request) -> Response:
    return JSONResponse({"dropped": state["dropped"]})


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    task = asyncio.create_task(subscribe())
    yield
    task.cancel()


app = Starlette(
    routes=[Route("/sse", stream), Route("/healthz", healthz), Route("/stats", stats)], lifespan=lifespan
)
