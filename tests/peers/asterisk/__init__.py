"""
Asterisk 22 as a carrier: a program that nobody here wrote, from Debian's packages, with our own small configuration.

    async with Asterisk.start(folder) as carrier:
        ...  # trunk at carrier.proxy with the account carrier.account()

The last three digits of a number say what happens to it: `etc/extensions.conf`. Each instance has a folder and ports of
its own, listens on loopback only and is ended by its own process id.
"""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.peers.sipp import HOST, PROBE_S, fill_in, free_port_of_both, free_tcp_port, until
from tests.peers.unpacked import Unpacked, unpacked
from tests.ports import own_range

ETC = Path(__file__).parent / "etc"
PASSWORD = "carrier-secret"
RTP_PORTS = 2000
START_LIMIT_S = 30.0
# What opens further ports, wants hardware or only warns for want of a configuration stays out.
LEFT_OUT = re.compile(
    r"chan_(?!pjsip|bridge_media|rtp)|pbx_(?!config)|cdr_|cel_|format_ogg|codec_(?!ulaw|alaw|gsm|g722)|test_"
    r"|app_(voicemail|minivm|queue|followme|festival|alarm|adsi|getcpeid|sms|zapateller|jack|ices|meetme|page|agent_pool"
    r"|directory|dictate|externalivr|confbridge|skel|amd|speech_utils)|func_odbc"
    r"|res_(jabber|xmpp|snmp|http_post|phoneprov|hep|calendar|config_|odbc|ldap|smdi|fax|corosync|aeap|adsi|geolocation"
    r"|pjsip_geolocation|stir_shaken|pjsip_stir_shaken|prometheus|statsd|endpoint_stats|chan_stats|cdrel|speech"
    r"|stun_monitor|parking|pjsip_notify|pjsip_phoneprov|pjsip_config_wizard|musiconhold|clialiases|resolver_unbound"
    r"|ael|agi|manager|timing_pthread|tonedetect)"
)


@dataclass(eq=False)
class Asterisk:
    """A running Asterisk."""

    folder: Path
    program: Unpacked
    process: asyncio.subprocess.Process
    sip_port: int
    """UDP and TCP."""
    tls_port: int
    http_port: int
    """Of its REST interface (ARI), account `ari`."""

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        folder: Path,
        *,
        phones: tuple[int, int] = (9, 9),
        certificate: str = "",
        key: str = "",
        rtp_ports: tuple[int, int] | None = None,
    ) -> "AsyncIterator[Asterisk]":
        """
        A carrier with `phones` (UDP ports on loopback) behind it. Without a certificate TLS is not spoken.

        Raises `AssertionError` in words if this machine can't have it.
        """
        program = await unpacked("asterisk")
        folder = folder / "asterisk"
        sip_port, tls_port, http_port = free_port_of_both(), free_tcp_port(), free_tcp_port()
        low, high = rtp_ports or _rtp_range()
        _configure(
            folder,
            program,
            sip_port=sip_port,
            tls_port=tls_port,
            http_port=http_port,
            rtp_low=low,
            rtp_high=high,
            phone1=f"{HOST}:{phones[0]}",
            phone2=f"{HOST}:{phones[1]}",
            certificate=certificate,
            key=key,
        )
        with (folder / "output.txt").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *program.command("usr/sbin/asterisk", "-C", str(folder / "etc/asterisk.conf"), "-f"),
                cwd=folder,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        running = cls(folder, program, process, sip_port, tls_port, http_port)
        try:
            await running._booted()
            yield running
        finally:
            if process.returncode is None:
                process.kill()  # It has nothing to save, and takes seconds to say good-bye.
            await process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    def trunk(
        self, user: str = "carrier", *, transport: str = "udp", password: str = PASSWORD, **keys: object
    ) -> dict[str, object]:
        """A `[[trunks]]` section for an account of it."""
        port = self.tls_port if transport == "tls" else self.sip_port
        return {
            "name": user,
            "proxy": f"sip:{HOST}:{port};transport={transport}",
            "username": user,
            "password": password,
            "caller_id": "+34910000000",
            **keys,
        }

    @property
    def log(self) -> str:
        """What it found worth saying."""
        path = self.folder / "var/log/messages"
        return path.read_text(errors="replace") if path.exists() else ""

    async def command(self, line: str) -> str:
        """Give it a command line, `core show channels`, and return what it says."""
        asking = await asyncio.create_subprocess_exec(
            *self.program.command("usr/sbin/asterisk", "-C", str(self.folder / "etc/asterisk.conf"), "-rx", line),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await asking.communicate()
        return said.decode(errors="replace")

    async def quiet(self) -> None:
        """Wait until it has no call left."""
        async with asyncio.timeout(START_LIMIT_S):
            while "0 active channels" not in (said := await self.command("core show channels count")):
                assert "active channel" in said, said
                await asyncio.sleep(PROBE_S)

    async def _booted(self) -> None:
        control = self.folder / "run/asterisk.ctl"
        await until(lambda: control.exists() or self.process.returncode is not None, "Asterisk's start", START_LIMIT_S)
        async with asyncio.timeout(START_LIMIT_S):
            while "fully booted" not in (said := await self.command("core waitfullybooted")):
                assert self.process.returncode is None, f"{said}\n{self._last_words}"
                await asyncio.sleep(PROBE_S)

    @property
    def _last_words(self) -> str:
        return (self.folder / "output.txt").read_text(errors="replace")[-2000:] + self.log[-2000:]


def _rtp_range() -> tuple[int, int]:
    """Ports for its audio; it goes around those that others hold."""
    return own_range(RTP_PORTS)


def _configure(here: Path, program: Unpacked, **texts: str | int) -> None:
    for place in (
        "etc",
        "run",
        *(f"var/{name}" for name in ("lib", "cache", "log", "keys", "spool/tmp", "spool/outgoing")),
    ):
        (here / place).mkdir(parents=True)
    modules = program.find("chan_pjsip.so").parent
    own = {"folder": str(here), "root": str(program.root), "modules": str(modules)}
    for source in ETC.iterdir():
        (here / "etc" / source.name).write_text(fill_in(source.read_text(), {**texts, **own}))
    noload = sorted(name for name in os.listdir(modules) if LEFT_OUT.match(name))
    (here / "etc/modules.conf").write_text(
        "[modules]\nautoload = yes\n" + "".join(f"noload = {name}\n" for name in noload)
    )
    # The packages' own scripts, which don't run here, would choose the voice.
    sounds = program.root / "usr/share/asterisk/sounds"
    voice = sounds / "en"
    if not voice.exists():
        voice.symlink_to(next(sounds.glob("en_*")).name)


async def prepared() -> None:
    """See to it that it is unpacked, so that starting it takes no longer than that."""
    await unpacked("asterisk")
