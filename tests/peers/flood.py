"""
Garbage at a SIP port: `python -m tests.peers.flood SOURCE TARGET_PORT PER_SECOND SECONDS KIND`.

From loopback address SOURCE, and prints as JSON how many datagrams went out and how many came back. KIND `garbage`
can't be read as SIP (random bytes, messages cut short or with broken start lines); `scan` adds requests that are
perfectly sound, as a scanner sends them.
"""

import json
import random
import socket
import sys
import time

BATCH_S = 0.01
PAYLOADS = 512


def payloads(kind: str, chance: random.Random) -> list[bytes]:
    sound = [
        (
            f"{method} sip:{number}@127.0.0.1 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.66:5060;branch=z9hG4bK{number};rport\r\n"
            f"From: <sip:{number}@127.0.0.1>;tag={number}\r\nTo: <sip:{number}@127.0.0.1>\r\nCall-ID: {number}\r\n"
            f"CSeq: 1 {method}\r\nContact: <sip:x@127.0.0.66>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        for number, method in enumerate(["OPTIONS", "INVITE", "REGISTER", "BYE", "ACK", "CANCEL"] * 20)
    ]
    made = list(sound) if kind == "scan" else []
    while len(made) < PAYLOADS:
        message = chance.choice(sound)
        made.append(
            chance.choice(
                (
                    chance.randbytes(chance.randrange(1, 1200)),
                    message[: chance.randrange(1, len(message) - 4)],
                    message.replace(b"SIP/2.0\r\n", b"SIP/9.9\r\n", 1),
                    message.replace(b"CSeq: 1", b"CSeq: x"),
                    b"",
                )
            )
        )
    return made


def main() -> None:
    source, port, per_second, seconds, kind = sys.argv[1:]
    chance = random.Random(1)
    made = payloads(kind, chance)
    batch = max(1, int(int(per_second) * BATCH_S))
    sent = answers = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind((source, 0))
        sender.setblocking(False)
        target = ("127.0.0.1", int(port))
        begin = time.monotonic()
        while (now := time.monotonic()) < begin + float(seconds):
            # As many as are due by now, so that a late turn is made up for.
            due = min(int((now - begin) * int(per_second)) + batch - sent, 10 * batch)
            for _ in range(due):
                try:
                    sender.sendto(made[sent % PAYLOADS], target)
                except OSError:
                    continue
                sent += 1
            try:
                while True:
                    sender.recv(65_535)
                    answers += 1
            except BlockingIOError:
                pass
            time.sleep(BATCH_S)
        sender.settimeout(0.5)
        try:
            while True:
                sender.recv(65_535)
                answers += 1
        except TimeoutError:
            pass
        took_s = time.monotonic() - begin - 0.5
    sys.stdout.write(json.dumps({"sent": sent, "answers": answers, "took_s": took_s}))


if __name__ == "__main__":
    main()
