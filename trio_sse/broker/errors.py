"""Errors of Redis and of the network, as one line that names the setting to change."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from redis.exceptions import AuthenticationError, InvalidResponse, RedisError, ResponseError

from trio_sse.settings import Settings


class NoMasterError(ConnectionError):
    """No Sentinel named a master that can be used. The text has what each answered, and the settings."""


class ReplicaError(RedisError):
    """What is published at a replica reaches only the subscribers of that replica."""

    def __init__(self, master: str) -> None:
        super().__init__(
            f"it is a replica of {master}: what is published there reaches only those subscribed there"
        )


IS_REPLICA = (
    "Redis is a replica: what is published at it, and not at its master, reaches only its own subscribers, "
    "and POST /publish is refused"
)


class PartlyError(ConnectionError):
    """Some were published, and others not, or nobody knows. `left` are the places of those others, and
    `reason` is why."""

    def __init__(self, reason: BaseException, left: Sequence[int] = ()) -> None:
        super().__init__(f"a part was published, then: {text_of(reason)}")
        self.reason = reason
        self.left = left


def text_of(error: BaseException) -> str:
    """The error as one line, with Redis' error code, which redis-py removes: a MOVED would be `9643
    127.0.0.1:7001`."""
    text = " ".join(str(error).split()) or type(error).__name__
    code = getattr(error, "status_code", None)
    text = f"{code} {text}" if code and code != "ERR" and not text.startswith(code) else text
    if text.startswith("DENIED"):
        text = text.partition(". ")[0]  # the rest is 800 characters of advice
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_LONGEST = 400

_TWO_KEYS = "SSE_REDIS_STREAM and Idempotency-Keys are"
_SLOTS = "{slots} in different slots: {instead}"

_ACL = "{login}: the ACL of this user, for {rights}, see docs/security.md"

# By the code that an error begins with. {where} and {login} are the settings that the operator used.
_BY_CODE = {
    "NOAUTH": "{login}",
    "WRONGPASS": "{login}",
    "NOPERM": _ACL,
    "DENIED": "{login}: it has none, and takes only clients of its own machine; protected-mode in redis.conf",
    "WRONGTYPE": "SSE_REDIS_STREAM must name a stream, or nothing yet",
    "MOVED": "{where}: another node of this cluster keeps SSE_REDIS_STREAM. A channel works at any node, a "
    "stream at the node that keeps it",
    "ASK": "the cluster is moving SSE_REDIS_STREAM to another node: {where} must name that",
    "TRYAGAIN": "the cluster is moving keys: the service tries again",
    "CROSSSLOT": _SLOTS,
    "CLUSTERDOWN": "the cluster at {where} is not complete: see `redis-cli CLUSTER INFO`, `CLUSTER SHARDS`",
    "LOADING": "Redis is loading its data: the service tries again",
    "MASTERDOWN": "{where} names a replica that has lost its master: name the master",
    "READONLY": "{where} names a replica: name the master, or REDIS_SENTINELS that know it",
    "OOM": "Redis has no memory left: its maxmemory; SSE_STREAM_LENGTH bounds the stream",
    "MISCONF": "Redis cannot write to its disk: see its log; it takes no writes until it can",
    "NOREPLICAS": "Redis has too few replicas: its min-replicas-to-write",
    "BUSY": "a script keeps Redis busy: `redis-cli SCRIPT KILL`",
    "NOPROTO": "RESP 2 is spoken here, which every Redis knows: {where}",
}

# By a part of the text, in lower case: errors of Redis with the code ERR or none, and errors of the network.
_BY_TEXT = (
    ("select is not allowed in cluster mode", "{database}: a cluster has only number 0"),
    ("db index is out of range", "{database}: this Redis has fewer databases"),
    ("only 0th database", "{database}: this Redis has only number 0"),
    ("acl failure in script", _ACL),
    ("invalid password", "{login}"),
    ("without any password configured", "{login}: this Redis has no password, leave it out"),
    ("wrong number of arguments for 'auth'", "{login}: this Redis is older than 6 and knows no users"),
    ("max number of clients", "Redis has too many clients: its maxclients"),
    (
        "cluster support disabled",
        "{where} names a Redis that is no cluster: it is REDIS_HOST, REDIS_PORT or REDIS_URL, with "
        "SSE_REDIS_ROUTING=by-key",
    ),
    ("non local key", "another node of this cluster keeps SSE_REDIS_STREAM: {where}"),
    ("do not hash to the same slot", _SLOTS),
    ("unknown command 's", "{where}: REDIS_CLUSTER takes Redis 7 or newer"),  # SSUBSCRIBE, SPUBLISH
    ("unknown command", "SSE_REDIS_STREAM takes Redis 5 or newer, POST /publish one with EVAL: {where}"),
    ("unknown subcommand", "SSE_REDIS_STREAM takes Redis 5 or newer: {where}"),
    ("hostname mismatch", "{tls}: ssl_check_hostname=false, or a certificate for this name"),
    ("ip address mismatch", "{tls}: ssl_check_hostname=false, or a certificate for this address"),
    ("certificate verify failed", "{tls}: ssl_ca_certs=/path/of/the/ca.pem names who signed it"),
    ("certificate required", "{tls}: ssl_certfile and ssl_keyfile are the client's own"),
    ("wrong version number", "{tls}: rediss:// is TLS, redis:// is not"),
    ("record layer failure", "{tls}: rediss:// is TLS, redis:// is not"),
)


def is_refusal(error: BaseException) -> bool:
    """Whether Redis answered, and refused."""
    return isinstance(error, ResponseError | AuthenticationError) or bool(getattr(error, "status_code", None))


def advice(error: BaseException, settings: Settings, *, rights: str | None = None) -> str:
    """An error from Redis as one line that names the setting to look at. `rights`: what a user of Redis needs
    them for, if not for messages."""
    text = text_of(error)
    if isinstance(error, NoMasterError):
        return text
    if isinstance(error, PartlyError):
        return f"a part was published, then: {advice(error.reason, settings)}"
    tls = settings.redis_server.tls is not None
    used = {
        "perhaps": "; if it needs a client certificate, ssl_certfile and ssl_keyfile in REDIS_URL"
        if tls
        else f"; if it wants TLS, {_tls_setting(settings)}=rediss://…",
        "where": _where(settings),
        "login": _login(settings),
        "database": "the database in REDIS_URL" if settings.redis_url is not None else "REDIS_MAIN_DB",
        "tls": _tls_setting(settings),
        "rights": rights or _of_messages(settings),
        "slots": "the partitions of SSE_REDIS_STREAM are" if settings.partitioned else _TWO_KEYS,
        "instead": f"REDIS_CLUSTER, in place of {_where(settings)}, names a cluster"
        if settings.partitioned
        else f"{_where(settings)} must name a Redis that is no cluster",
        "address": "; or, if the cluster names an address that is out of reach from here, its "
        "cluster-announce-ip"
        if settings.redis_cluster
        else "",
    }
    return f"{text} ({_cure(error, text, tls=tls).format(**used)})"


def _of_messages(settings: Settings) -> str:
    if settings.by_key:
        return f"channels &{settings.redis_channel}:* (SSE_REDIS_CHANNEL)"
    if settings.partitioned:
        return f"keys ~{settings.redis_stream}:* (SSE_REDIS_STREAM) and POST /publish"
    return "SSE_REDIS_CHANNEL, SSE_REDIS_STREAM and POST /publish"


def of_redis(error: BaseException, settings: Settings) -> str:
    """`advice` about the Redis of the settings, whose address stands before it."""
    return f"Redis at {settings.redis_address}: {advice(error, settings)}"


def of_sentinel(error: BaseException) -> str:
    """An error from a Sentinel, likewise."""
    text = text_of(error)
    if isinstance(error, AuthenticationError) or text.startswith("NOPERM"):
        return f"{text} (REDIS_SENTINEL_USERNAME, REDIS_SENTINEL_PASSWORD)"
    if "unknown command" in text.lower():
        return "is no Sentinel"
    if _is_tls(error):
        return f"{text} (rediss:// in REDIS_SENTINELS is TLS; ssl_ca_certs=… there or in REDIS_URL)"
    return text


def _cure(error: BaseException, text: str, *, tls: bool) -> str:
    if isinstance(error, ReplicaError):
        return "{where} must name the master, or REDIS_SENTINELS those who know it"
    code, lower = text.partition(" ")[0], text.lower()
    if code in _BY_CODE:
        return _BY_CODE[code]
    for part, cure in _BY_TEXT:
        if part in lower:
            return cure
    if isinstance(error, AuthenticationError):
        return "{login}"
    if _is_tls(error):
        return "{tls}: rediss:// is TLS, redis:// is not"
    if isinstance(error, InvalidResponse) or "protocol error" in lower:
        return "{where}: what answers there is no Redis, or wants TLS, which is rediss:// in {tls}"
    if isinstance(error, ResponseError):
        return "Redis at {where} refuses it"
    if "closed" in lower or "reset" in lower:
        return "{where}{perhaps}"
    if "no answer" in lower and tls:
        return "{where}: this may be a Redis without TLS, and rediss:// is TLS"
    return "{where}{address}"


def _is_tls(error: BaseException) -> bool:
    cause = error.__cause__ or error.__context__ or error
    return isinstance(error, ssl.SSLError) or isinstance(cause, ssl.SSLError) or "ssl" in str(error).lower()


def _where(settings: Settings) -> str:
    if settings.redis_sentinels:
        return "REDIS_SENTINELS"
    if settings.redis_cluster:
        return "REDIS_CLUSTER"
    return "REDIS_HOST, REDIS_PORT or REDIS_URL" if settings.redis_url is None else "REDIS_URL"


def _login(settings: Settings) -> str:
    return (
        "REDIS_USERNAME, REDIS_PASSWORD" if settings.redis_url is None else "user and password in REDIS_URL"
    )


def _tls_setting(settings: Settings) -> str:
    return "REDIS_CLUSTER" if settings.redis_cluster else "REDIS_URL"
