"""The command line: exit statuses, messages without tracebacks, and each command against the real thing."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dosvoces import __version__
from dosvoces.capture import Capture, Captured, pack
from dosvoces.cli import calls, main
from dosvoces.cli.calls import CONTRACT_FIELDS
from dosvoces.client import service_url
from dosvoces.demo import REQUEST
from dosvoces.mail import Mail
from dosvoces.model import ConnectionId
from dosvoces.store.sql import open_store
from dosvoces.testing import an_order
from dosvoces.web import fields as contract_fields

DOSVOCES = (sys.executable, "-c", "import sys; from dosvoces.cli import main; sys.exit(main())")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in a folder of its own, with an environment that says nothing."""
    monkeypatch.chdir(tmp_path)
    for name in ("DOSVOCES_CONFIG", "DOSVOCES_HTTP__PORT"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(list(arguments))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--version") == (0, f"dosvoces {__version__}\n", "")


def test_version_loads_nothing_heavy() -> None:
    code = (
        "import sys; from dosvoces.cli import main; main(['--version']);"
        "sys.exit(bool({'fastapi', 'sqlalchemy', 'structlog', 'phonenumbers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


def test_a_wrong_command_line_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "srve")
    assert (status, out) == (2, "")
    assert "No such command 'srve'" in err


def test_wrong_settings_are_status_2_and_every_problem(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "dosvoces.toml").write_text("[http]\nprot = 1\nhost = ''\n")
    status, out, err = said(capsys, "list")
    assert (status, out) == (2, "")
    assert err == (
        "dosvoces: dosvoces.toml can't be used; 2 problems:\n"
        '  [http] host = "": String should have at least 1 character\n'
        "  [http] prot: there is no such key; did you mean port?\n"
    )


@pytest.mark.parametrize("arguments", [("--config", "x.toml", "list"), ("list", "--config", "x.toml")])
def test_config_may_stand_before_or_behind_the_command(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = said(capsys, *arguments)
    assert (status, err.splitlines()[0]) == (2, "dosvoces: x.toml can't be used; 1 problem:")


def test_config_without_a_command_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "--config", "x.toml") == said(capsys)
    assert "Usage: dosvoces" in said(capsys, "--config", "x.toml")[2]


def test_config_may_come_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOSVOCES_CONFIG", "y.toml")
    status, _, err = said(capsys, "list")
    assert (status, err.splitlines()[0]) == (2, "dosvoces: y.toml can't be used; 1 problem:")


# --- the record ---


@pytest.fixture
def recorded(folder: Path) -> str:
    """One connection and one mail in ./dosvoces.db; gives the connection's id."""
    at = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
    order = an_order()
    mail = Mail(
        message_id="<1@localhost>",
        recipient="ana@example.com",
        subject="Nuevo contacto",
        text="Hola",
        content=b"From: d@localhost\r\nTo: ana@example.com\r\nSubject: Nuevo contacto\r\n\r\nHola\r\n",
    )

    async def write() -> None:
        store = open_store(f"sqlite:///{folder}/dosvoces.db")
        await store.open()
        await store.record(order)
        await store.keep_mail(mail, at=at)
        await store.close()

    asyncio.run(write())
    return order.id


def test_list_and_show(capsys: pytest.CaptureFixture[str], recorded: str) -> None:
    status, out, _ = said(capsys, "list")
    assert status == 0
    assert recorded in out
    status, out, _ = said(capsys, "show", recorded.upper())
    assert status == 0
    assert "+34600000011" in out


def test_a_capture_is_drawn_and_written(capsys: pytest.CaptureFixture[str], recorded: str, folder: Path) -> None:
    invite = f"INVITE sip:a@b SIP/2.0\r\nCall-ID: {recorded}-a-1\r\nCSeq: 1 INVITE\r\n\r\n".encode()
    captured = Captured(1_790_000_000_000_000, True, "udp", ("192.0.2.1", 5060), ("192.0.2.2", 5060), invite)

    async def write() -> None:
        store = open_store(f"sqlite:///{folder}/dosvoces.db")
        await store.open()
        store.keep_capture(ConnectionId(recorded), pack(Capture((captured,))))
        await store.close()

    asyncio.run(write())
    status, out, err = said(capsys, "show", recorded, "--ladder", "--pcap", "call.pcap")
    assert (0, "") == (status, err)
    assert "|<----------- INVITE ----------|" in out
    assert invite in (folder / "call.pcap").read_bytes()


def test_a_capture_that_cant_be_written_or_is_nobodys_says_why(
    capsys: pytest.CaptureFixture[str], recorded: str, folder: Path
) -> None:
    async def write() -> None:
        store = open_store(f"sqlite:///{folder}/dosvoces.db")
        await store.open()
        store.keep_capture(ConnectionId(recorded), pack(Capture(())))
        await store.close()

    asyncio.run(write())
    expected = "dosvoces: no/x can't be written: No such file or directory; name another file, or - for stdout\n"
    assert (1, "", expected) == said(capsys, "show", recorded, "--pcap", "no/x")
    expected = "dosvoces: there is no connection 'nope'; `dosvoces list` names those that there are\n"
    assert (1, "", expected) == said(capsys, "show", "nope", "--ladder")


def test_a_connection_without_a_capture_says_why(capsys: pytest.CaptureFixture[str], recorded: str) -> None:
    expected = f"dosvoces: no SIP messages are kept of {recorded!r}: they are when it is over, if [sip] capture is on\n"
    assert (1, "", expected) == said(capsys, "show", recorded, "--ladder")


def test_list_and_show_for_programs(capsys: pytest.CaptureFixture[str], recorded: str) -> None:
    _, out, _ = said(capsys, "list", "--json")
    assert [record["id"] for record in json.loads(out)] == [recorded]
    _, out, _ = said(capsys, "show", recorded, "--json")
    shown = json.loads(out)
    assert (shown["first"], shown["created_at"], shown["journal"]) == ("+34600000011", "2026-11-23T09:00:00+00:00", [])


def test_what_is_scheduled_is_shown_so(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    """Under the word that the API has for it, and with its time."""
    order = replace(an_order(), not_before=datetime(2126, 3, 1, 9, 30, tzinfo=UTC))

    async def write() -> None:
        store = open_store(f"sqlite:///{folder}/dosvoces.db")
        await store.open()
        await store.record(order, waits=True)
        await store.close()

    asyncio.run(write())
    assert said(capsys, "list")[1].splitlines()[0].endswith("  scheduled, 03-01 09:30")
    shown = said(capsys, "show", order.id)[1]
    assert shown.startswith(f"Connection {order.id}: scheduled\n")
    assert "\n  begins     2126-03-01 09:30:00 UTC\n" in shown
    assert json.loads(said(capsys, "list", "--json")[1])[0]["phase"] == "scheduled"
    assert json.loads(said(capsys, "show", order.id, "--json")[1])["phase"] == "scheduled"


def test_what_is_not_there_is_said(capsys: pytest.CaptureFixture[str], recorded: str) -> None:
    expected = "dosvoces: there is no connection 'nope'; `dosvoces list` names those that there are\n"
    assert said(capsys, "show", "nope") == (1, "", expected)
    expected = "dosvoces: there is no mail 7; `dosvoces mail list` names those that there are\n"
    assert said(capsys, "mail", "show", "7") == (1, "", expected)
    status, _, err = said(capsys, "mail", "show", "99999999999999999999999")
    assert (status, "should be less than or equal to 2147483647" in err) == (2, True)


def test_without_a_record_there_is_an_error_and_no_file(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    status, out, err = said(capsys, "list")
    assert (status, out) == (1, "")
    assert err.startswith("dosvoces: there is no record at dosvoces.db")
    assert list(folder.iterdir()) == []


def test_mails(capsysbinary: pytest.CaptureFixture[bytes], recorded: str) -> None:
    assert main(["mail", "list"]) == 0
    assert b"Nuevo contacto" in capsysbinary.readouterr().out
    assert main(["mail", "show", "1"]) == 0
    assert b"Hola" in capsysbinary.readouterr().out
    assert main(["mail", "show", "1", "--raw"]) == 0
    assert capsysbinary.readouterr().out.startswith(b"From: d@localhost\r\n")


# --- check ---


def test_check_without_a_trunk_is_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "check")
    assert status == 1
    assert "error    trunk: there is none: no call can be made\n         → add a [[trunks]] section\n" in out


def test_check_tells_wrong_settings_as_findings(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    (folder / "dosvoces.toml").write_text("[http]\nprot = 1\n")
    status, out, _ = said(capsys, "check", "--json")
    assert status == 1
    assert json.loads(out) == [
        {
            "level": "error",
            "thing": "dosvoces.toml",
            "text": "[http] prot: there is no such key; did you mean port?",
            "remedy": "",
        }
    ]


def test_check_looks_at_the_secrets_files(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="dosvoces-open-") as made:
        folder = Path(made)
        folder.chmod(0o755)  # Everybody may enter it; nobody else may those of pytest.
        monkeypatch.chdir(folder)
        (folder / "dosvoces.toml").write_text('[mail]\nurl_file = "mail.url"\n')
        (folder / "mail.url").write_text("inbox:")
        (folder / "mail.url").chmod(0o644)
        told = said(capsys, "check")[1]
    assert "every account of this machine can read mail.url, which is [mail] url_file\n" in told


# --- call ---

NO_ADDRESSES = (
    "ftp://127.0.0.1",
    "http://",
    "http://127.0.0.1:80x80",
    "http://127.0.0.1:99999",
    "http://[::1",
    "http://ñañ..a/",
    f"http://{'a' * 64}.example",
    "http://127.0.0.1 8080",
    "http://127.0.0.1/\x7f",
    "http://127.0.0.1/ñ",
)


@dataclass
class Far:
    """An HTTP server that keeps what it was asked and answers what it was told to."""

    url: str = ""
    status: int = 200
    body: bytes = b"Data received successfully"
    location: str = "/v1/connections/01abc"
    asked: list[tuple[str, str | None, dict[str, object]]] = field(default_factory=list)


@pytest.fixture
def far() -> Iterator[Far]:
    far = Far()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            far.asked.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(far.status)
            if far.location:
                self.send_header("Location", far.location)
            self.end_headers()
            self.wfile.write(far.body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        far.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield far
        server.shutdown()
        thread.join()


def test_call_posts_the_contracts_fields(capsys: pytest.CaptureFixture[str], far: Far) -> None:
    options = [f"--{name}={value}" for name, value in REQUEST.items()]
    assert said(capsys, "call", "--url", far.url, *options) == (
        0,
        "200 Data received successfully\ndosvoces show 01abc\n",
        "",
    )
    assert far.asked == [("/call", "application/json", REQUEST)]
    assert set(REQUEST) == CONTRACT_FIELDS


def test_call_leaves_out_what_is_not_given_and_tells_a_refusal(capsys: pytest.CaptureFixture[str], far: Far) -> None:
    error = b'{"field": "email", "code": "format", "message": "is not one plain e-mail address"}'
    far.status, far.body, far.location = 400, b'{"Message": "Missing arguments email: x", "Errors": [%s]}' % error, ""
    fields = ("--firstnumber", "+34600000011", "--secondnumber", "+34960000022", "--email", "x")
    expected = "400 Missing arguments email: x\n  email is not one plain e-mail address\n"
    assert said(capsys, "call", "--url", f"{far.url}/call", *fields) == (1, expected, "")
    assert far.asked == [
        ("/call", "application/json", {"firstnumber": "+34600000011", "secondnumber": "+34960000022", "email": "x"})
    ]


def test_call_without_a_service_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    fields = ("--firstnumber", "+34600000011", "--secondnumber", "+34960000022", "--email", "a@example.com")
    expected = f"dosvoces: {url} can't be reached: Connection refused; is `dosvoces serve` running there?\n"
    assert said(capsys, "call", "--url", url, *fields) == (1, "", expected)


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_call_to_what_is_no_address_says_so(capsys: pytest.CaptureFixture[str], url: str) -> None:
    fields = ("--firstnumber", "+34600000011", "--secondnumber", "+34960000022", "--email", "a@example.com")
    expected = f"dosvoces: {url!r} is no address of a service; write http://127.0.0.1:8080\n"
    assert said(capsys, "call", "--url", url, *fields) == (1, "", expected)


def test_an_interval_is_waited_for_as_long_as_it_may_be() -> None:
    assert calls.MAX_INTERVAL_S == contract_fields.MAX_INTERVAL_S


@pytest.mark.parametrize("interval", [99999999999999999999, -99999])
def test_call_leaves_an_interval_that_cant_be_to_the_service(
    capsys: pytest.CaptureFixture[str], far: Far, interval: int
) -> None:
    far.status, far.body, far.location = 400, b'{"Message": "Bad call_interval"}', ""
    fields = ("--firstnumber", "+34600000011", "--secondnumber", "+34960000022", "--email", "a@example.com")
    answer = said(capsys, "call", "--url", far.url, *fields, f"--call_interval={interval}")
    assert answer == (1, "400 Bad call_interval\n", "")
    assert [body["call_interval"] for _, _, body in far.asked] == [interval]


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80"), ("10.0.0.1", "http://10.0.0.1:80")],
)
def test_where_a_service_is_reached(host: str, expected: str) -> None:
    assert service_url(host, 80) == expected


# --- phone, serve ---


def test_a_phone_whose_port_is_taken_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        status, out, err = said(capsys, "phone", "--bind", bind)
    assert (status, out) == (1, "")
    assert err == f"dosvoces: can't listen on {bind}: Address already in use; choose another address\n"


@pytest.mark.parametrize("wrong", [("--bind", "nowhere"), ("--keys", "x"), ("--tone", "0")])
def test_a_phone_with_wrong_options_is_status_2(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "phone", *wrong)[0] == 2


def test_serve_with_nothing_configured_says_what_it_is_ready_for_and_stops(folder: Path) -> None:
    (folder / "dosvoces.toml").write_text("[http]\nport = 0\n")
    with subprocess.Popen([*DOSVOCES, "serve"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as service:
        assert service.stdout is not None
        screen = []
        for line in service.stdout:
            screen.append(line.rstrip())
            if "dosvoces demo" in line:
                break
        url = screen[2].split()[-1].removesuffix("/call")
        with urllib.request.urlopen(f"{url}/metrics") as answer:
            metrics = answer.read().decode()
        service.send_signal(signal.SIGTERM)
        assert service.wait(10) == 0
        _, err = service.communicate()
    assert "dosvoces_open_connections 0.0\n" in metrics
    assert screen[0] == f"Dosvoces {__version__}"
    assert screen[2].startswith("  requests  POST http://127.0.0.1:")
    assert screen[3:6] == [
        "  mails     kept here, not sent: dosvoces mail list",
        "  record    dosvoces.db",
        "  trunks    none: no call can be made yet",
    ]
    assert len(screen) < 25
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["ready", "stopping", "stopped"]


def test_serve_whose_port_is_taken_is_one_clear_line(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (folder / "dosvoces.toml").write_text(f"[http]\nport = {port}\n")
        done = subprocess.run([*DOSVOCES, "serve"], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"dosvoces: Can't listen for HTTP on 127.0.0.1:{port}")
    assert "Traceback" not in done.stderr


def test_a_record_is_not_moved_to_itself(capsys: pytest.CaptureFixture[str], recorded: str) -> None:
    expected = "dosvoces: dosvoces.db is where it is already: say with --to, or [database] url, where to copy it\n"
    assert (1, "", expected) == said(capsys, "migrate-data", "--from", "sqlite:///dosvoces.db")


def test_a_wrong_url_of_a_move_is_named_by_its_option(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    form = "sqlite:///dosvoces.db, or postgresql://user:password@host/database"
    for option in ("--from", "--to"):
        urls = {"--from": "sqlite:///a.db", "--to": "sqlite:///b.db", option: "foo"}
        arguments = [part for pair in urls.items() for part in pair]
        expected = f"dosvoces: {option} is no database URL: write it as {form}\n"
        assert (2, "", expected) == said(capsys, "migrate-data", *arguments)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("typo.db", "new.db", "there is no record in typo.db: mend --from"),
        (
            "dosvoces.db",
            "none/dosvoces.db",
            "the record none/dosvoces.db can't be opened (No such file or directory): the folder none must exist and "
            "be writable, or mend --to",
        ),
        (
            "folder",
            "new.db",
            'the record folder is a folder: name a file in it, such as --from "sqlite:///folder/dosvoces.db"',
        ),
    ],
)
def test_a_move_that_cant_begin_names_the_option_to_mend(
    capsys: pytest.CaptureFixture[str], folder: Path, recorded: str, source: str, target: str, expected: str
) -> None:
    (folder / "folder").mkdir()
    status, _, err = said(capsys, "migrate-data", "--from", f"sqlite:///{source}", "--to", f"sqlite:///{target}")
    assert (1, f"dosvoces: {expected}\n") == (status, err)


def test_a_wrong_address_of_a_phone_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, err = said(capsys, "phone", "--bind", "foo")
    assert "Invalid value for '--bind': 'foo': write it as host:port" in err
