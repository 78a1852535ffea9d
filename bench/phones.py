"""Two SIPp phones for load: both answer at once, the second hangs up after a while."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.processes import cpu_s, free_port, running, until_listening

# The first party: 180, 200, then whatever ends the call.
_WAITS = """<recv request="BYE"/>
<send><![CDATA[SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send>"""
# The second party: the same, then it hangs up.
_HANGS_UP = """<pause milliseconds="{hold_ms}"/>
<send retrans="500"><![CDATA[BYE [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: [$local]
To: [$remote]
[last_Call-ID:]
CSeq: 1 BYE
Max-Forwards: 70
Content-Length: 0

]]></send>
<recv response="200"/>"""

_SCENARIO = """<?xml version="1.0" encoding="ISO-8859-1" ?>
<scenario name="phone">
<recv request="INVITE" crlf="true" rrs="true">
<action>
<ereg regexp=".*" search_in="hdr" header="To:" assign_to="to"/>
<ereg regexp=".*" search_in="hdr" header="From:" assign_to="remote"/>
<assignstr assign_to="local" value="[$to];tag=[call_number]"/>
</action>
</recv>
<send><![CDATA[SIP/2.0 180 Ringing
[last_Via:]
[last_From:]
[last_To:];tag=[call_number]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:[local_ip]:[local_port];transport=[transport]>
Content-Length: 0

]]></send>
<send retrans="500"><![CDATA[SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:];tag=[call_number]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:[local_ip]:[local_port];transport=[transport]>
Content-Type: application/sdp
Content-Length: [len]

v=0
o=phone 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[media_ip_type] [media_ip]
t=0 0
m=audio [media_port] RTP/AVP 8
a=rtpmap:8 PCMA/8000

]]></send>
<recv request="ACK"/>
{end}
<Reference variables="to,local,remote"/>
</scenario>
"""


@dataclass(frozen=True, slots=True)
class Phones:
    """Where they listen, and who they are."""

    first_port: int
    second_port: int
    pids: tuple[int, int]

    @property
    def cpu_s(self) -> float:
        return sum(cpu_s(pid) for pid in self.pids)


@asynccontextmanager
async def phones(folder: Path, *, hold_s: float) -> AsyncIterator[Phones]:
    """Both phones, listening. The second hangs up `hold_s` after it answered."""
    async with AsyncExitStack() as stack:
        ends = {"first": _WAITS, "second": _HANGS_UP.format(hold_ms=round(hold_s * 1000))}
        ports, pids = [], []
        for name, end in ends.items():
            scenario, log = folder / f"{name}.xml", folder / f"{name}.log"
            scenario.write_text(_SCENARIO.format(end=end))
            port = free_port(socket.SOCK_DGRAM)
            command = ["sipp", "-sf", str(scenario), "-i", "127.0.0.1", "-p", str(port), "-nostdin", "-trace_err"]
            command += ["-error_file", str(folder / f"{name}.errors"), "-buff_size", "4194304", "-max_socket", "100"]
            process: asyncio.subprocess.Process = await stack.enter_async_context(running(*command, log=log))
            await until_listening(port, process, log, udp=True)
            ports.append(port)
            pids.append(process.pid)
        yield Phones(ports[0], ports[1], (pids[0], pids[1]))
