"""A listening socket of a worker's own, beside the one that all workers share (SO_REUSEPORT, socket(7)).

From a shared socket whoever is quickest accepts: measured with four workers, one had nine times as many
streams as another. Among sockets of their own the kernel draws lots, before anybody accepts.
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct

from trio_sse.sockets import MAX_BACKLOG, Socket

_SO_ATTACH_REUSEPORT_CBPF = 51  # asm-generic/socket.h

# linux/filter.h, linux/bpf_common.h: load SKF_AD_RANDOM, and what is done with it by a constant.
_LOAD, _RANDOM = 0x20, 0xFFFFF000 + 56
_MODULO, _ADD, _RETURN = 0x94, 0x04, 0x16


def own_listener(shared: Socket, workers: int) -> socket.socket | None:
    """A listening socket at the address of `shared`, for one of so many workers. None with one worker alone,
    and where the kernel allows none: beside a Unix socket, beside one that another user has made, at a port
    that this process may not bind.

    `shared` goes on listening, for what comes while no worker has a socket of its own.
    """
    if workers < 2 or shared.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    own = socket.socket(shared.family, socket.SOCK_STREAM)
    try:
        # Set only now: when it was bound, an address that another service has was still told to be in use.
        shared.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared.family == socket.AF_INET6:
            only = shared.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        own.bind(shared.getsockname())
        own.listen(MAX_BACKLOG)
    except OSError:
        own.close()
        return None
    own.setblocking(False)
    _leave_out_the_first(own, workers)
    return own


def _leave_out_the_first(member: socket.socket, workers: int) -> None:
    """Let the kernel choose among all sockets at this address but the first one, which is the shared one. If
    there are fewer than `workers` others, it may choose any, as it would without this."""
    program = [(_LOAD, _RANDOM), (_MODULO, workers), (_ADD, 1), (_RETURN, 0)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", what, 0, 0, by) for what, by in program))
    where = struct.pack("HP", len(program), ctypes.addressof(code))
    with contextlib.suppress(OSError):  # then it chooses the shared one as often as each of the others
        member.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, where)
