"""The sockets of one agent, all on one address: UDP, and what makes and takes TCP and TLS connections."""

from collections.abc import Callable

from .api import Address, Hop
from .connections import Connections
from .tls import Tls
from .transport import UdpTransport

PORT_ATTEMPTS = 20  # to find a port that is free for UDP and TCP


def open_sockets(
    bind: Address,
    *,
    tcp: bool,
    tls: Tls,
    receiver: Callable[[bytes, Hop], None],
    unreachable: Callable[[Hop, bytes], None],
    lost: Callable[[Hop], None],
    settled: Callable[[], None],
    admits: Callable[[str], bool],
    in_use: Callable[[Hop], bool],
) -> tuple[UdpTransport, Connections]:
    """
    Bind UDP, and with `tcp` listen on the same port; where any port will do, one that is free for both.

    The callbacks are those of `Connections`. Raises `OSError` and `TlsError`, and then nothing is left open.
    """
    for attempt in range(PORT_ATTEMPTS):
        transport = UdpTransport(bind, receiver=receiver, unreachable=unreachable, settled=settled)
        try:
            connections = Connections(
                bind_host=bind[0],
                port=transport.local[1],
                tls=tls,
                receiver=receiver,
                unreachable=unreachable,
                lost=lost,
                settled=settled,
                admits=admits,
                in_use=in_use,
            )
            if tcp:
                connections.listen("tcp")
        except OSError:
            transport.close()
            if bind[1] or attempt + 1 == PORT_ATTEMPTS:
                raise
        except BaseException:
            transport.close()
            raise
        else:
            return transport, connections
    raise AssertionError("the last attempt returns or raises")
