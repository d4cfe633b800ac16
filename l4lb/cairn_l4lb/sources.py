"""Which source address a connection gets whose conntrack entry we make ourselves."""

from collections.abc import Callable, Container

_LOOPBACK = b"\x7f\0\0\1"
_LOOPBACK6 = bytes(15) + b"\1"


def new_source(
    client: bytes,
    backend: bytes,
    local: Container[bytes],
    preferred: Callable[[bytes], bytes | None],
) -> bytes | None:
    """The source that the backend is to see, all addresses as on the wire.

    local: addresses of this host. preferred: the source that the kernel prefers for its route to
    an address; None while it is not known, and then nothing is known here either.  A backend on
    another host sees this host, so that its answers come back here; one on this host sees a
    container's own address (dcos/minuteman `src/minuteman_packet_handler.erl`).
    """
    if backend in local:
        if client in local:
            return _LOOPBACK if len(client) == len(_LOOPBACK) else _LOOPBACK6
        return client
    return preferred(backend)
