"""
The SRTP keys that a leg offers: which are used again, and which never.

A key that is given up isn't taken up again, as its stream would begin anew (RFC 3711 §9.1). And whoever may be new at
the other end gets a new key: it can't know how often our stream's sequence has wrapped; with a new key both begin anew.
"""

import secrets

from dosvoces.sip import sdp

Lines = tuple[sdp.Crypto, ...]
"""One for each suite, all with the keys that we would encrypt with."""


def fresh(security: sdp.Security) -> Lines:
    """New keys; none where media aren't encrypted."""
    return () if security is sdp.Security.OFF else sdp.new_crypto(secrets.token_bytes)


def without_retired(lines: Lines, before: sdp.Keys | None, now: sdp.Keys | None) -> Lines:
    """`lines` after `before` was replaced by `now`: but for the key in use they are new if ours has changed."""
    if before is None or (now is not None and now.ours == before.ours):
        return lines
    return tuple(
        line if now is not None and line.key == now.ours else new
        for line, new in zip(lines, sdp.new_crypto(secrets.token_bytes), strict=True)
    )


def for_answer(lines: Lines, in_use: sdp.Keys | None, offered: sdp.SessionDescription) -> Lines:
    """
    The keys to answer `offered` with: `lines` where the peer's key is as before, else new ones.

    Behind a new key of its there may be another machine.
    """
    if in_use is None or any(line.key == in_use.theirs for media in offered.media for line in media.crypto):
        return lines
    return sdp.new_crypto(secrets.token_bytes)
