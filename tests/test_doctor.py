"""`dosvoces check`: what it finds, and what it says to do about it."""

import asyncio
import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from dosvoces import doctor
from dosvoces.app.door import check_door
from dosvoces.doctor import Finding, Level, examine, offline
from dosvoces.doctor.door import examine_door
from dosvoces.doctor.trunks import examine_trunk
from dosvoces.errors import MailError, SettingsError, StoreError
from dosvoces.keys import ApiKey
from dosvoces.mail import Mail, Mailbox
from dosvoces.settings import Settings
from dosvoces.sip.digest import Credentials
from dosvoces.store import Concern, Store
from dosvoces.store.keys import KeyRing, Keys
from tests.keys import a_key
from tests.trunk_server import TrunkServer


class AStore:
    def __init__(self, error: str = "", concerns: Sequence[Concern] = ()) -> None:
        self.error, self.closed, self.said = error, False, concerns

    async def open(self) -> None:
        if self.error:
            raise StoreError(self.error)

    async def concerns(self) -> Sequence[Concern]:
        return self.said

    async def close(self) -> None:
        self.closed = True


class SomeKeys:
    """The keys of a record, or of none."""

    def __init__(self, keys: Sequence[ApiKey] | None = ()) -> None:
        self.held = keys

    async def ring(self) -> KeyRing:
        if self.held is None:
            raise StoreError("there is no record")
        return KeyRing(datetime.now(UTC), self.held)

    async def close(self) -> None:
        """Nothing was opened."""


class AMailbox:
    def __init__(self, error: str = "") -> None:
        self.error, self.closed = error, False

    async def deliver(self, mail: Mail) -> None:
        raise AssertionError("a check sends no mail")

    async def check(self) -> None:
        if self.error:
            raise MailError(self.error)

    async def close(self) -> None:
        self.closed = True


def settings(**sections: object) -> Settings:
    return Settings.model_validate({"http": {"port": 0}, **sections})


def trunk(**keys: object) -> dict[str, object]:
    return {"name": "main", "proxy": "sip:127.0.0.1:5060", "caller_id": "+34910000000", **keys}


@contextmanager
def a_socket(kind: socket.SocketKind) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        yield taken


async def found(subject: Settings, store: AStore | None = None, mailbox: AMailbox | None = None) -> list[Finding]:
    store, mailbox = store or AStore(), mailbox or AMailbox()
    findings = await examine(
        subject, file=None, store=cast(Store, store), mailbox=cast(Mailbox, mailbox), keys=cast(Keys, SomeKeys())
    )
    assert store.closed
    assert mailbox.closed
    return findings


def about(thing: str, findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.thing == thing]


async def test_nothing_configured_lacks_a_trunk_and_nothing_else() -> None:
    findings = await found(settings())
    assert [f for f in findings if f.level is not Level.OK] == [
        Finding(Level.ERROR, "trunk", "there is none: no call can be made", "add a [[trunks]] section")
    ]
    assert [f.thing for f in findings] == [
        "configuration",
        "clock",
        "database",
        "mail",
        "keys",
        "http",
        "trunk",
        "media",
        "open files",
    ]


async def test_a_database_is_looked_at_and_nothing_is_made(tmp_path: Path) -> None:
    subject = settings(database={"url": f"sqlite:///{tmp_path}/x.db"})
    assert [(f.level, f.text) for f in about("database", await found(subject, AStore("not asked")))] == [
        (Level.OK, f"{tmp_path}/x.db will be made at the first start")
    ]
    assert os.listdir(tmp_path) == []
    (tmp_path / "x.db").touch()
    assert [f.level for f in about("database", await found(subject))] == [Level.OK]
    assert [(f.level, f.text) for f in about("database", await found(subject, AStore("it is damaged")))] == [
        (Level.ERROR, "it is damaged")
    ]


async def test_a_server_is_looked_at() -> None:
    subject = settings(database={"url": "postgresql://u@h/d"})
    said = (Concern("fsync is off", "set it on", stops=False), Concern("it is read-only", "set it off", stops=True))
    for concerns, levels in (
        ((), [Level.OK]),
        (said[:1], [Level.WARNING, Level.OK]),
        (said, [Level.WARNING, Level.ERROR]),
    ):
        assert [f.level for f in about("database", await found(subject, AStore(concerns=concerns)))] == levels


async def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    subject = settings(database={"url": f"sqlite:///{tmp_path}/none/x.db"})
    assert [f.level for f in about("database", await found(subject))] == [Level.ERROR]


async def test_a_folder_in_the_records_place_is_an_error(tmp_path: Path) -> None:
    told = [
        Finding(
            Level.ERROR,
            "database",
            f"{tmp_path} is a folder",
            f'name a file in it: [database] url = "sqlite:///{tmp_path}/dosvoces.db"',
        )
    ]
    assert about("database", await found(settings(database={"url": f"sqlite:///{tmp_path}"}))) == told


async def test_a_mail_server_that_refuses_is_an_error() -> None:
    mail = settings(mail={"url": "smtp://127.0.0.1:25?tls=none", "from": "a@example.com"})
    refused = about("mail", await found(mail, mailbox=AMailbox("127.0.0.1:25 refused us: 554 no")))
    assert [(f.level, f.text) for f in refused] == [(Level.ERROR, "127.0.0.1:25 refused us: 554 no")]
    assert [f.level for f in about("mail", await found(mail))] == [Level.OK]


async def test_a_senderless_mail_server_is_a_warning() -> None:
    mail = settings(mail={"url": "smtp://127.0.0.1:25?tls=none"})
    assert [f.level for f in about("mail", await found(mail))] == [Level.OK, Level.WARNING]


async def test_taken_ports_are_told() -> None:
    with a_socket(socket.SOCK_STREAM) as http, a_socket(socket.SOCK_DGRAM) as sip:
        subject = settings(
            http={"port": http.getsockname()[1]},
            sip={"bind": f"127.0.0.1:{sip.getsockname()[1]}"},
            trunks=[trunk(proxy=f"sip:127.0.0.1:{sip.getsockname()[1]}")],
        )
        findings = [*doctor._http(subject), *doctor._sip_socket(subject)]
    assert [(f.level, f.thing, f.text.partition(": ")[2]) for f in findings] == [
        (Level.WARNING, "http", "Address already in use"),
        (Level.WARNING, "sip", "Address already in use"),
    ]


def test_an_address_of_another_machine_is_an_error() -> None:
    subject = settings(http={"host": "192.0.2.1"}, media={"address": "192.0.2.1"}, trunks=[trunk()])
    findings = [*doctor._http(subject), *doctor._media_ports(subject)]
    assert [(f.level, f.thing) for f in findings] == [(Level.ERROR, "http"), (Level.ERROR, "media")]


def test_a_port_range_too_small_for_the_connections_names_one_that_is_enough() -> None:
    subject = settings(media={"ports": "20000-20099"}, dialing={"max_connections": 50})
    assert list(doctor._media_ports(subject)) == [
        Finding(
            Level.ERROR,
            "media",
            "ports 20000-20099 are enough for 25 connections, 50 are allowed",
            '[media] ports = "20000-20199" or wider, or lower [dialing] max_connections',
        )
    ]


def test_media_ports_of_others_are_counted() -> None:
    with a_socket(socket.SOCK_DGRAM) as taken:
        low = taken.getsockname()[1] // 2 * 2
        subject = settings(media={"ports": f"{low}-{low + 7}"}, dialing={"max_connections": 2})
        (finding,) = doctor._media_ports(subject)
    assert finding.level is Level.WARNING


def test_a_trunk_far_away_needs_addresses_that_it_can_reach() -> None:
    far = settings(trunks=[trunk(proxy="sip:203.0.113.9")])
    assert [(f.level, f.thing, f.remedy) for f in offline(far) if f.level is Level.ERROR] == [
        (Level.ERROR, "sip", '[sip] bind = "0.0.0.0:5060"'),
        (
            Level.ERROR,
            "media",
            '[media] address = "0.0.0.0" and advertised = the IP address that the trunk shall send audio to',
        ),
    ]
    behind_nat = settings(
        sip={"bind": "0.0.0.0:5060"},
        media={"address": "0.0.0.0", "advertised": "192.168.1.2"},
        trunks=[trunk(proxy="sip:8.8.8.8")],
    )
    assert [(f.level, f.thing) for f in offline(behind_nat)] == [(Level.OK, "countries"), (Level.WARNING, "media")]


def test_a_trunk_without_caller_id_or_with_a_script_is_a_warning() -> None:
    subject = settings(trunks=[trunk(caller_id=None), {"name": "trial", "carrier": "fake"}])
    assert [(f.level, f.thing) for f in offline(subject)] == [
        (Level.OK, "countries"),
        (Level.WARNING, "trunk main"),
        (Level.WARNING, "trunk trial"),
    ]


def test_keys_of_srtp_in_clear_are_a_warning() -> None:
    subject = settings(trunks=[trunk(srtp="optional"), trunk(name="plain")])
    (finding,) = [finding for finding in offline(subject) if "srtp" in finding.text]
    assert finding == Finding(
        Level.WARNING,
        "trunk main",
        'srtp = "optional", and its keys go to sip:127.0.0.1:5060 in clear: who reads them can listen in',
        "a proxy with ;transport=tls, if the carrier has one",
    )


def test_too_few_open_files_are_an_error() -> None:
    (finding,) = doctor._descriptors(settings(), 256, 512)
    assert (finding.level, finding.text) == (Level.ERROR, "256 open files are allowed, 100 connections need 600")
    assert finding.remedy.startswith("ulimit -n 600, or LimitNOFILE=600 in the systemd unit (the hard limit of 512")


def test_a_clock_before_this_program_is_an_error() -> None:
    (finding,) = doctor._clock(0.0)
    assert finding.level is Level.ERROR


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('[[trunks]]\nname = "main"\npassword = "x"', ['[[trunks]] password (trunk "main")']),
        ('[mail]\nurl = "smtp://u:p@h"\n[widget]\nsecret = "x"', ["[mail] url", "[widget] secret"]),
        ('[database]\nurl = "postgresql://h/d?password=x"', ["[database] url"]),
        ('[database]\nurl = "postgresql://u@h:5432/d"\npassword_file = "p"', []),
        ('[mail]\nurl = "smtp://h:25"\n[[webhooks]]\nurl = "https://h:443/"\nsecret_file = "s"', []),
    ],
)
def test_a_readable_file_with_a_secret_is_a_warning(tmp_path: Path, text: str, holds: list[str]) -> None:
    file = tmp_path / "dosvoces.toml"
    file.write_text(text)
    file.chmod(0o644)
    warnings = [f.text for f in doctor._configuration(file) if f.level is Level.WARNING]
    told = f"every account of this machine can read {file}, and it holds {', '.join(holds)}"
    assert warnings == ([told] if holds else [])
    file.chmod(0o600)
    assert [f.level for f in doctor._configuration(file)] == [Level.OK]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """That everybody may enter, which those of pytest aren't."""
    with tempfile.TemporaryDirectory(prefix="dosvoces-open-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


def test_a_readable_file_of_a_secret_is_a_warning(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that `dosvoces.toml` names, beside it, and those of the environment, which go from here."""
    here, etc = open_folder / "here", open_folder / "etc"
    here.mkdir()
    etc.mkdir()
    monkeypatch.chdir(here)
    config, trunk, mail = etc / "dosvoces.toml", etc / "main.password", here / "mail"
    config.write_text('[[trunks]]\nname = "main"\npassword_file = "main.password"\n')
    for file in (trunk, mail):
        file.write_text("secret")
        file.chmod(0o644)
    environ = {"DOSVOCES_MAIL__URL_FILE": "mail"}
    warned = [(finding.level, finding.text, finding.remedy) for finding in doctor._secret_files(config, environ)]
    assert warned == [
        (
            Level.WARNING,
            f"every account of this machine can read {file}, which is {where}",
            f"chmod 600 {file}, and chown it to the service's account",
        )
        for file, where in (("mail", "[mail] url_file"), (trunk, '[[trunks]] password_file (trunk "main")'))
    ]
    here.chmod(0o700)  # Nobody else comes as far as the file.
    trunk.chmod(0o640)
    assert list(doctor._secret_files(config, environ)) == []


class _Answering(asyncio.DatagramProtocol):
    """A far end that answers every request with 405, after something that is no answer."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        kept = [
            line
            for line in data.split(b"\r\n")
            if line.partition(b":")[0] in (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
        ]
        self.transport.sendto(b"noise", addr)
        self.transport.sendto(b"\r\n".join([b"SIP/2.0 100 Trying", *kept, b"", b""]), addr)
        self.transport.sendto(b"\r\n".join([b"SIP/2.0 405 Method Not Allowed", *kept, b"", b""]), addr)


async def test_a_trunk_that_answers_anything_is_alive() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_Answering, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    subject = settings(trunks=[trunk(proxy=f"sip:127.0.0.1:{port}")])
    findings = [finding async for finding in examine_trunk(subject, subject.trunks[0])]
    transport.close()
    assert findings == [Finding(Level.OK, "trunk main", f"127.0.0.1:{port} answers (405 Method Not Allowed)")]


async def test_a_further_host_that_is_not_found_is_a_warning() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        proxy = f"sip:127.0.0.1:{silent.getsockname()[1]}"
        subject = settings(trunks=[trunk(proxy=proxy, hosts=["127.0.0.2", "nowhere.invalid"])])
        found = [finding async for finding in examine_trunk(subject, subject.trunks[0])]
    assert (found[-1].level, found[-1].remedy) == (Level.WARNING, "mend that name, or the DNS")
    assert found[-1].text.startswith("nowhere.invalid of its hosts can't be resolved")


async def test_a_trunk_where_nothing_listens_is_an_error() -> None:
    with a_socket(socket.SOCK_DGRAM) as gone:
        port = gone.getsockname()[1]
    subject = settings(trunks=[trunk(proxy=f"sip:127.0.0.1:{port}")])
    (finding,) = [finding async for finding in examine_trunk(subject, subject.trunks[0])]
    assert (finding.level, finding.text) == (Level.ERROR, f"127.0.0.1:{port} can't be reached: Connection refused")


@pytest.mark.parametrize(
    ("password", "level", "text"),
    [
        ("secret", Level.OK, "the registrar takes us; nobody registered there now"),
        ("wrong", Level.ERROR, "the registrar refuses us: 401 said"),
    ],
)
async def test_an_account_is_tried_without_registering(password: str, level: Level, text: str) -> None:
    async with TrunkServer.open() as server:
        server.account = Credentials("us", "secret")
        account = {"username": "us", "password": password, "register": True}
        subject = settings(trunks=[trunk(proxy=f"sip:127.0.0.1:{server.port}", **account)])
        findings = [finding async for finding in examine_trunk(subject, subject.trunks[0])]
        assert (findings[-1].level, findings[-1].thing, findings[-1].text) == (level, "trunk main", text)
        assert server.bound == {}


async def test_an_unknown_name_is_an_error() -> None:
    subject = settings(trunks=[trunk(proxy=f"sip:{'a' * 64}.invalid")])
    findings = [finding async for finding in examine_trunk(subject, subject.trunks[0])]
    assert [(f.level, f.thing) for f in findings] == [(Level.ERROR, "trunk main")]


# --- who may come in ---

_, VALID = a_key("web")
_, ENDED = a_key("gone", revoked_at=datetime(2026, 3, 2, tzinfo=UTC))
LISTED: dict[str, object] = {"allow": ["10.0.0.0/8"]}
DOORS: list[tuple[str, dict[str, object], list[ApiKey] | None, Level, bool]] = [
    # Where it listens, what [http] says, the keys there are, what the check finds, whether the service starts.
    ("127.0.0.1", {}, None, Level.OK, True),
    ("127.0.0.1", {}, [], Level.OK, True),
    ("127.0.0.1", {}, [VALID], Level.OK, True),
    ("127.0.0.1", {}, [ENDED], Level.ERROR, True),
    ("127.0.0.1", {"keys": "required"}, [], Level.ERROR, True),
    ("0.0.0.0", {}, None, Level.ERROR, False),
    ("0.0.0.0", {}, [], Level.ERROR, False),
    ("::", {}, [], Level.ERROR, False),
    ("0.0.0.0", {}, [VALID], Level.OK, True),
    ("0.0.0.0", {}, [ENDED, VALID], Level.OK, True),
    ("0.0.0.0", {}, [ENDED], Level.ERROR, True),
    ("0.0.0.0", {"keys": "required"}, [], Level.ERROR, True),
    ("0.0.0.0", LISTED, [], Level.OK, True),
    ("0.0.0.0", {"allow": ["0.0.0.0/0"]}, [], Level.ERROR, False),
    ("0.0.0.0", {"allow": ["10.0.0.0/8", "::/0"]}, [], Level.ERROR, False),
    ("0.0.0.0", {"i_accept_toll_fraud": True}, [], Level.WARNING, True),
]


@pytest.mark.parametrize(("host", "http", "keys", "level", "starts"), DOORS)
async def test_no_service_that_strangers_can_call_by_starts(
    host: str, http: dict[str, object], keys: list[ApiKey] | None, level: Level, starts: bool
) -> None:
    subject, held = settings(http={"host": host, "port": 0, **http}), cast(Keys, SomeKeys(keys))
    (finding,) = [each async for each in examine_door(subject, held)]
    assert finding.level is level
    if keys is None:
        return  # A start makes the record first.
    if starts:
        await check_door(subject, held)
    else:
        with pytest.raises(SettingsError, match="make calls at your expense"):
            await check_door(subject, held)
