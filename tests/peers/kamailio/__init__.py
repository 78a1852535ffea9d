"""
Kamailio as a proxy between us and the phones: it challenges what we send and stays in every dialog (Record-Route).

    async with Kamailio.start(folder, phones={Side.A: ..., Side.B: ...}) as proxy:
        ...  # a trunk with the keys of proxy.trunk()

Numbers of +34600 go to A's phone, all others to B's: `kamailio.cfg`. Each instance has ports of its own, listens on
loopback only and is ended with its children.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dosvoces.model import Side
from tests.peers.sipp import HOST, PROBE_S, fill_in, free_port_of_both, free_tcp_port, udp_port_taken
from tests.peers.unpacked import unpacked

HERE = Path(__file__).parent
USER, PASSWORD = "dosvoces", "proxy-secret"
START_LIMIT_S = 20.0
END_LIMIT_S = 5.0

PING = """\
OPTIONS sip:{there} SIP/2.0
Via: SIP/2.0/TCP {here};branch=z9hG4bKready
From: <sip:test@{here}>;tag=1
To: <sip:{there}>
Call-ID: ready
CSeq: 1 OPTIONS
Max-Forwards: 10
Content-Length: 0

"""


@dataclass(eq=False)
class Kamailio:
    """A running Kamailio."""

    folder: Path
    process: asyncio.subprocess.Process
    port: int
    """UDP and TCP."""
    tls_port: int
    """0 without a certificate."""

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: Path,
        phones: Mapping[Side, str],
        *,
        certificate: str = "",
        key: str = "",
        client_ca: str = "",
        port: int = 0,
        name: str = "kamailio",
    ) -> "AsyncIterator[Kamailio]":
        """
        A proxy to `phones`, each `host:port` with URI parameters. With a certificate it speaks TLS too, with
        `client_ca` only to who shows one that this authority has signed.

        Raises `AssertionError` in words if this machine can't have it.
        """
        program = await unpacked("kamailio")
        folder = folder / name
        folder.mkdir()
        port = port or free_port_of_both()
        tls_port = free_tcp_port() if certificate else 0
        config = folder / "kamailio.cfg"
        (folder / "tls.cfg").write_text(
            fill_in(
                (HERE / "tls.cfg").read_text(),
                {
                    "certificate": certificate,
                    "key": key,
                    "verify": "yes" if client_ca else "no",
                    "client_ca": client_ca or certificate,
                },
            )
        )
        tls = {
            "tls": "yes",
            "listen_tls": f"listen=tls:{HOST}:{tls_port}",
            "load_tls": f'loadmodule "tls.so"\nmodparam("tls", "config", "{folder}/tls.cfg")',
        }
        texts: dict[str, str | int] = {
            "sip_port": port,
            "modules": str(program.find("tm.so").parent),
            "phone1": phones[Side.A],
            "phone2": phones[Side.B],
            **(tls if certificate else {"tls": "no", "listen_tls": "", "load_tls": ""}),
        }
        config.write_text(fill_in((HERE / "kamailio.cfg").read_text(), texts))
        with (folder / "output.txt").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *program.command("usr/sbin/kamailio", "-f", str(config), "-DD", "-E", "-Y", str(folder)),
                *("-w", str(folder)),
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        running = cls(folder, process, port, tls_port)
        try:
            await running._listening()
            yield running
        finally:
            await running.stop()

    def trunk(self, transport: str = "udp", **keys: object) -> dict[str, object]:
        """What a `[[trunks]]` section says to go through it."""
        port = self.tls_port if transport == "tls" else self.port
        proxy = f"sip:{HOST}:{port};transport={transport}"
        return {"proxy": proxy, "username": USER, "password": PASSWORD, **keys}

    async def stop(self) -> None:
        """End it and its children: they are of its own process group."""
        if self.process.returncode is not None:
            return
        self.process.terminate()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.process.wait(), END_LIMIT_S)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()

    @property
    def log(self) -> str:
        """What it found worth saying."""
        return (self.folder / "output.txt").read_text(errors="replace")

    async def _listening(self) -> None:
        """Until it answers over TCP, which the last of its processes does."""
        async with asyncio.timeout(START_LIMIT_S):
            while not (udp_port_taken(self.port) and await self._answers()):
                assert self.process.returncode is None, self.log[-3000:]
                await asyncio.sleep(PROBE_S)

    async def _answers(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection(HOST, self.port)
        except ConnectionRefusedError:
            return False
        here = "{}:{}".format(*writer.get_extra_info("sockname"))
        writer.write(PING.format(here=here, there=f"{HOST}:{self.port}").replace("\n", "\r\n").encode())
        answer = await reader.readline()
        writer.close()
        return answer.startswith(b"SIP/2.0 200 ")
