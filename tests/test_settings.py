"""Settings: every way to write a value, and every way to get it wrong, with what the operator then reads."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import TypeAdapter, ValidationError

from dosvoces import reference
from dosvoces.errors import SettingsError
from dosvoces.settings import HostPort, InvalidSettings, PortRange, Proxy, Settings, load
from dosvoces.settings.sources import _LIST_EXAMPLES, _model

ROOT = Path(__file__).parent.parent

COMPLETE = """
[http]
host = "0.0.0.0"
port = 9000
[mail]
url = "smtp://user:pa%40ss@mail.example.com:587?tls=starttls"
from = "Leads <leads@example.com>"
locale = "en"
[sip]
bind = "0.0.0.0:5070"
advertised = "198.51.100.7"
[media]
address = "0.0.0.0"
advertised = "198.51.100.7"
ports = "30000-30999"
[dialing]
countries = ["es", "PT"]
[[trunks]]
name = "main"
proxy = "sip:sip.example.com:5080;transport=UDP"
username = "u"
password = "secret"
caller_id = "+34910000000"
prefixes = ["+34", "+351"]
"""


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "dosvoces.toml"
    file.write_text(text)
    return file


def problems(tmp_path: Path, text: str, **environ: str) -> list[str]:
    with pytest.raises(InvalidSettings) as caught:
        load(written(tmp_path, text), environ)
    return caught.value.problems


def test_nothing_configured_is_loopback_sqlite_and_inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load(None, {})
    assert settings == Settings()
    assert (settings.http.host, settings.sip.bind, settings.media.address) == (
        "127.0.0.1",
        HostPort("127.0.0.1", 5060),
        "127.0.0.1",
    )
    assert settings.database.url.get_secret_value() == "sqlite:///dosvoces.db"
    assert settings.mail.url.get_secret_value() == "inbox:"
    assert settings.countries == ("ES",)


def test_a_complete_file_is_read(tmp_path: Path) -> None:
    settings = load(written(tmp_path, COMPLETE), {})
    (trunk,) = settings.trunks
    assert settings.http.port == 9000
    assert settings.mail.from_ == "Leads <leads@example.com>"
    assert settings.sip.bind == HostPort("0.0.0.0", 5070)
    assert settings.sip.advertised == HostPort("198.51.100.7", 5060)
    assert settings.media.ports == PortRange(30000, 30999)
    assert settings.media.ports.connections == 250
    assert settings.countries == ("ES", "PT")
    assert trunk.proxy == Proxy("sip.example.com", 5080, "udp")
    assert str(trunk.proxy) == "sip:sip.example.com:5080;transport=udp"
    assert trunk.password is not None
    assert trunk.password.get_secret_value() == "secret"
    assert trunk.prefixes == ("+34", "+351")


@pytest.mark.parametrize(
    ("uri", "proxy", "shown"),
    [
        ("sip:sip.example.com", Proxy("sip.example.com"), "sip:sip.example.com"),
        ("SIP:192.0.2.1:5070;Transport=TCP", Proxy("192.0.2.1", 5070, "tcp"), "sip:192.0.2.1:5070;transport=tcp"),
        ("sip:[2001:db8::1];transport=tls", Proxy("2001:db8::1", None, "tls"), "sip:[2001:db8::1];transport=tls"),
        ("sips:example.com;transport=tls", Proxy("example.com", None, "tls", True), "sips:example.com;transport=tls"),
    ],
)
def test_proxies_of_all_transports(tmp_path: Path, uri: str, proxy: Proxy, shown: str) -> None:
    (trunk,) = load(written(tmp_path, f'[[trunks]]\nname = "main"\nproxy = "{uri}"'), {}).trunks
    assert (trunk.proxy, str(trunk.proxy)) == (proxy, shown)
    assert proxy.may_use("tls") == ("udp" not in shown and "tcp" not in shown)


def test_further_hosts_of_a_trunk(tmp_path: Path) -> None:
    hosts = 'hosts = ["sbc2.example.com", "203.0.113.9", "2001:db8::1"]'
    text = f'[[trunks]]\nname = "main"\nproxy = "sip:a.example"\n{hosts}'
    assert load(written(tmp_path, text), {}).trunks[0].hosts == ("sbc2.example.com", "203.0.113.9", "2001:db8::1")


@pytest.mark.parametrize("host", ["sbc.example:5060", "sip:sbc.example", "", "a" * 300, "two words"])
def test_a_host_of_a_trunk_is_a_name_or_an_address_alone(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match="write a name or an address alone, without a port"):
        load(written(tmp_path, f'[[trunks]]\nname = "main"\nproxy = "sip:a.example"\nhosts = ["{host}"]'), {})


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[trunks]]\nname = "a"\nproxy = "sips:a;transport=tcp"', "sips: is TLS; write sip: with ;transport=tcp"),
        ('[sip]\ntls_key_file = "key.pem"', "there is a `tls_key_file` and no `tls_certificate_file`"),
        ('[media]\nadvertised = "auto"', '[media] `advertised = "auto"` needs somebody who tells the address'),
        ('[sip]\nadvertised = "auto"', '[sip] `advertised = "auto"` needs somebody who tells the address'),
        ('[nat]\nstun = "a b"', "write it as host:port, an IPv6 address in brackets"),
    ],
)
def test_transports_that_can_not_be(tmp_path: Path, text: str, why: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert why in problem


def test_the_public_address_may_be_learned(tmp_path: Path) -> None:
    text = '[sip]\nadvertised = "auto"\n[nat]\nstun = "stun.example.com"\n[media]\naddress = "0.0.0.0"\n'
    settings = load(written(tmp_path, text + 'advertised = "auto"'), {})
    assert (settings.sip.advertised, settings.media.advertised) == ("auto", "auto")
    assert settings.nat.stun == HostPort("stun.example.com", 3478)


def test_the_file_in_this_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, "[http]\nport = 9001")
    monkeypatch.chdir(tmp_path)
    assert load(None, {}).http.port == 9001


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().http.port = 1


def test_environment_outweighs_the_file(tmp_path: Path) -> None:
    environ = {
        "DOSVOCES_HTTP__PORT": "8081",
        "DOSVOCES_MAIL__FROM": "b@example.com",
        "DOSVOCES_DIALING__COUNTRIES": "FR, IT",
        "DOSVOCES_TRUNKS__MAIN__PASSWORD": "other",
        "DOSVOCES_TRUNKS__1__NAME": "spare",
        "DOSVOCES_TRUNKS__1__PROXY": "sip:[2001:db8::1]",
        "DOSVOCES_CONFIG": "read by the command line",
        "PATH": "/bin",
    }
    settings = load(written(tmp_path, COMPLETE), environ)
    main, spare = settings.trunks
    assert settings.http.port == 8081
    assert settings.mail.from_ == "b@example.com"
    assert settings.countries == ("FR", "IT")
    assert main.password is not None
    assert main.password.get_secret_value() == "other"
    assert spare.proxy == Proxy("2001:db8::1")


@pytest.mark.parametrize(("value", "expected"), [("auto", "auto"), ("4", 4)])
def test_workers_are_a_number_or_one_per_core(value: str, expected: object) -> None:
    assert load(None, {"DOSVOCES_MEDIA__WORKERS": value}).media.workers == expected


def test_rtpengines_are_a_list_with_their_usual_port(tmp_path: Path) -> None:
    text = '[media]\nrelay = "rtpengine"\nrtpengine = ["192.0.2.1", "[2001:db8::1]:9999"]'
    assert load(written(tmp_path, text), {}).media.rtpengine == (("192.0.2.1", 2223), ("2001:db8::1", 9999))
    assert load(None, {"DOSVOCES_MEDIA__RTPENGINE": "media1,media2:1"}).media.rtpengine == (
        ("media1", 2223),
        ("media2", 1),
    )


def test_countries_are_those_of_the_trunks(tmp_path: Path) -> None:
    trunk = '[[trunks]]\nname = "{}"\nproxy = "sip:127.0.0.1"\ncountry = "{}"\n'
    file = written(tmp_path, trunk.format("a", "PT") + trunk.format("b", "fr") + trunk.format("c", "PT"))
    assert load(file, {}).countries == ("PT", "FR")


def test_secrets_come_from_files(tmp_path: Path) -> None:
    for name, secret in {"p": "pa\n", "m": "smtp://u:p@h:25?tls=starttls\r\n", "d": "sqlite:///x.db"}.items():
        (tmp_path / name).write_text(secret)
    text = f"""
    [mail]
    url_file = "{tmp_path}/m"
    [database]
    url_file = "{tmp_path}/d"
    [[trunks]]
    name = "main"
    proxy = "sip:127.0.0.1"
    username = "u"
    password_file = "{tmp_path}/p"
    """
    settings = load(written(tmp_path, text), {})
    password = settings.trunks[0].password
    assert password is not None
    assert password.get_secret_value() == "pa"
    assert settings.mail.url.get_secret_value() == "smtp://u:p@h:25?tls=starttls"
    assert settings.database.url.get_secret_value() == "sqlite:///x.db"


def test_a_secrets_file_is_found_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "m").write_text("smtp://beside")
    (tmp_path / "m").write_text("smtp://here")
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path / "etc", '[mail]\nurl_file = "m"')
    assert load(file, {}).mail.url.get_secret_value() == "smtp://beside"
    assert load(file, {"DOSVOCES_MAIL__URL_FILE": "m"}).mail.url.get_secret_value() == "smtp://here"


def test_every_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    text = """
    [widget]
    secret_file = "s"
    origins = ["https://www.example.com"]
    controller = "Casas Claras, S. L."
    privacy_url = "https://www.example.com/privacy"
    [webhook_urls]
    secret_file = "s"
    """
    settings = load(written(tmp_path, text + '[[webhooks]]\nurl = "https://h/"\nsecret_file = "s"'), {})
    told = (settings.widget.secret, settings.webhook_urls.secret, settings.webhooks[0].secret)
    expected = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert [expected] * 3 == [secret.get_secret_value() for secret in told if secret is not None]


def test_a_secret_that_is_given_twice_is_told_once(tmp_path: Path) -> None:
    assert problems(tmp_path, HOOK + 'secret_file = "s"') == [
        "[[webhooks]] secret_file (the first): secret is given too; keep one of them"
    ]


def test_a_secret_whose_file_cant_be_read_is_told_once(tmp_path: Path) -> None:
    assert problems(tmp_path, '[[webhooks]]\nname = "crm"\nurl = "https://h/"\nsecret_file = "/nope"') == [
        '[[webhooks]] secret_file (webhook "crm") = "/nope": can\'t be read: No such file or directory'
    ]


def test_a_secret_in_the_environment_outweighs_the_files_secret_file(tmp_path: Path) -> None:
    file = written(tmp_path, '[mail]\nurl_file = "/nowhere"')
    assert load(file, {"DOSVOCES_MAIL__URL": "smtp://h"}).mail.url.get_secret_value() == "smtp://h"


def test_secrets_are_never_printed(tmp_path: Path) -> None:
    settings = load(written(tmp_path, COMPLETE), {})
    assert "secret" not in repr(settings)
    assert "ss@mail" not in str(settings)


def test_every_problem_is_listed_with_its_remedy(tmp_path: Path) -> None:
    text = """
    bogus = 1
    http = 5
    [mail]
    from = "nonsense"
    url = "smtp://u:se@cret@host:70000"
    [sip]
    bnid = "127.0.0.1:5060"
    [media]
    ports = "20001-29999"
    [dialing]
    countries = ["ES", "ZZ"]
    [[trunks]]
    name = "main"
    proxy = "sip:foo;transport=ws"
    caller_id = "0034910000000"
    passwort = "hello"
    [[trunks]]
    carrier = "twilio"
    password_file = "/nope"
    """
    assert problems(tmp_path, text) == [
        '[[trunks]] password_file (the second) = "/nope": can\'t be read: No such file or directory',
        "http = 5: write it as a section, [http]",
        '[mail] url = "smtp://•••@host:70000": the port must be 1 to 65535; if a user or password comes before '
        "the host, characters like # / ? @ : % in it must be percent-encoded",
        '[mail] from = "nonsense": write it as "Dosvoces <leads@example.com>"',
        "[sip] bnid: there is no such key; did you mean bind?",
        '[media] ports = "20001-29999": begin with an even port and end with an odd one '
        "(RTP is even, its RTCP the odd one above)",
        '[dialing] countries[1] = "ZZ": a country is two letters of ISO 3166, for instance "ES"',
        '[[trunks]] proxy (trunk "main") = "sip:foo;transport=ws": the only parameter is ;transport=udp, tcp or tls',
        '[[trunks]] caller_id (trunk "main") = "0034910000000": write it in E.164: "+", the country code and the '
        'number, without spaces ("+34910000000")',
        '[[trunks]] passwort (trunk "main"): there is no such key; did you mean password?',
        "[[trunks]] name (the second): it is missing",
        "[[trunks]] carrier (the second) = \"twilio\": it should be 'sip' or 'fake'",
        "bogus: there is no such key; there are http, database, record, mail, sip, nat, media, dialing, "
        "numbers, limits, node, log, widget, webhook_urls, trunks, webhooks",
    ]


def test_the_error_names_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[http]\nport = -1")
    with pytest.raises(
        SettingsError, match=re.escape(f"{file} can't be used; 1 problem:\n  [http] port = -1: it should")
    ):
        load(file, {})


def test_a_wrong_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {
        "DOSVOCES_HTTP__PORT": "many",
        "DOSVOCES_HTTP__PORT__X": "1",
        "DOSVOCES_HTPT__PORT": "1",
        "DOSVOCES_TRUNKS__MAIN__PASSWORD": "x",
        "DOSVOCES_TRUNKS": "x",
    }
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidSettings) as caught:
        load(None, environ)
    assert caught.value.source == "the environment"
    assert caught.value.problems == [
        "DOSVOCES_HTTP__PORT__X: [http] port has no keys",
        "DOSVOCES_TRUNKS: name the trunk and the key: DOSVOCES_TRUNKS__0__PASSWORD",
        "DOSVOCES_TRUNKS__MAIN__PASSWORD: there is no such trunk; name one, or count them from 0",
        'DOSVOCES_HTTP__PORT = "many": it should be a valid integer, unable to parse string as an integer',
        "[htpt]: there is no such key; did you mean http?",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[http", "not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ("a = '\x00'", "not TOML: Found invalid character '\\x00' (at line 1, column 6): a = '�'"),
        (
            "[http]\r\ncoalesce = True\r\n",
            "not TOML: Invalid value (at line 2, column 12): "
            "coalesce = True; texts stand in quotes, true and false are written small",
        ),
        ("[http]\n[http]", "not TOML: Cannot declare ('http',) twice (at line 2, column 6): [http]"),
        (
            "[[trunks]]\npassword = hunter2\n",
            "not TOML: Invalid value (at line 2, column 12): "
            "password = •••; texts stand in quotes, true and false are written small",
        ),
        (
            "trunks = [{password = hunter2}]\n",
            "not TOML: Invalid value (at line 1, column 23): "
            "trunks = •••; texts stand in quotes, true and false are written small",
        ),
        ('[mail]\nurl = """\nhunter2 \\q"""\n', "not TOML: Unescaped '\\' in a string (at line 3, column 11)"),
    ],
)
def test_a_broken_file_is_said_so(tmp_path: Path, text: str, expected: str) -> None:
    assert problems(tmp_path, text) == [expected]


def test_a_missing_or_binary_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="it can't be read: No such file or directory"):
        load(tmp_path / "none.toml", {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="it is not UTF-8 text"):
        load(tmp_path / "binary", {})


def test_a_folder_or_a_link_to_nothing_by_the_files_name_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Docker makes the folder when the file of a bind mount isn't there: the defaults would start the wrong service."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dosvoces.toml").mkdir()
    with pytest.raises(InvalidSettings) as caught:
        load(None, {})
    told = "it is a folder: remove it and put a file in its place, the one that a container mounts before it starts"
    assert caught.value.problems == [told]
    (tmp_path / "dosvoces.toml").rmdir()
    (tmp_path / "dosvoces.toml").symlink_to("etc.toml")
    with pytest.raises(InvalidSettings) as caught:
        load(None, {})
    told = "it is a link to etc.toml, which is not there: make that file, or remove the link"
    assert caught.value.problems == [told]


HOOK = '[[webhooks]]\nurl = "https://crm.example.com/x"\nsecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"\n'


def test_a_webhook_has_a_name_and_events_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n")
    text = HOOK + '[[webhooks]]\nname = "erp"\nurl = "http://erp:8000/"\nsecret_file = "secret"\n'
    environ = {"DOSVOCES_WEBHOOKS__ERP__EVENTS": "connection.joined, connection.ended"}
    main, erp = load(written(tmp_path, text), environ).webhooks
    assert (main.name, main.events, main.timeout_s) == ("main", ("connection.ended",), 15.0)
    assert erp.events == ("connection.joined", "connection.ended")
    assert main.secret.get_secret_value() == erp.secret.get_secret_value()
    assert "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" not in repr(main)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://[::1]/", "http://10.1.2.3/", "http://crm:8000/x"])
def test_a_webhook_may_be_http_where_nobody_between_can_read_it(tmp_path: Path, url: str) -> None:
    assert load(written(tmp_path, HOOK.replace("https://crm.example.com/x", url)), {}).webhooks[0].url == url


@pytest.mark.parametrize(
    ("url", "networks", "reach"),
    [
        ("https://crm.example.com/", "", ()),
        ("https://crm.example.com/", '["10.0.0.0/8", "fd00::/8"]', ("10.0.0.0/8", "fd00::/8")),
        ("http://10.1.2.3:8000/", "", ("10.1.2.3/32",)),
        ("http://[::1]/", "", ("::1/128",)),
        ("http://localhost:8000/", "", ("127.0.0.0/8", "::1/128")),
        ("http://erp:8000/", "", ()),
    ],
)
def test_a_webhook_reaches_as_far_as_is_written(
    tmp_path: Path, url: str, networks: str, reach: tuple[str, ...]
) -> None:
    text = HOOK.replace("https://crm.example.com/x", url) + (f"networks = {networks}\n" if networks else "")
    assert load(written(tmp_path, text), {}).webhooks[0].reach == reach


TRUNK = '[[trunks]]\nname = "main"\nproxy = "sip:127.0.0.1"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[sip]\nbind = "127.0.0.1"', "write it as host:port, an IPv6 address in brackets"),
        ('[sip]\nbind = "127.0.0.1:65536"', "a port is 1 to 65535"),
        ('[sip]\nbind = "[::zz]:5060"', "write it as host:port, an IPv6 address in brackets"),
        ('[media]\naddress = "example.com"', "an IP address is meant (media goes to addresses, not to names)"),
        ('[media]\nadvertised = "0.0.0.0"', "it is what others send to: an address of this machine as they see it"),
        ('[media]\nports = "20000-20005"', "at least 8 ports are needed, 4 a connection"),
        ('[media]\nports = "29998-20001"', "at least 8 ports are needed, 4 a connection"),
        ('[media]\nports = "80-99"', "ports below 1024 belong to the system; begin at 1024 or above"),
        ('[media]\nports = "any"', 'write it as "low-high", for instance "20000-29999"'),
        ('[mail]\nurl = "http://x"', "it must begin with smtp://, smtps:// or be inbox:"),
        ('[mail]\nurl = "smtp://x?tls=maybe"', "tls='maybe' must be one of starttls, implicit, none"),
        ('[media]\naddress = "0.0.0.0"', '`address = "0.0.0.0"` needs `advertised`'),
        ('[mail]\nurl = "smtp://x?timeout=5"', "write the time limit as [mail] timeout_s"),
        ('[mail]\nlocale = "fr"', "it should be 'es' or 'en'"),
        ('[mail]\nfrom = "A <a@b.c"', 'write it as "Dosvoces <leads@example.com>"'),
        ('[database]\nurl = "mysql://x"', "begins with mysql://: write it as sqlite:///dosvoces.db, or postgresql://"),
        (
            '[database]\nurl = "postgresql://x"',
            "names no database: write it as postgresql://user:password@host/database",
        ),
        (
            '[database]\nurl = "postgresql://u:a@b@h:x/d"',
            "it can't be read; write it as postgresql://user:password@host",
        ),
        ('[database]\npassword = "x"', "there is a `password`, which SQLite has no use for: leave it out"),
        ("[dialing]\ncountries = []", "at least 1 item"),
        (TRUNK + TRUNK, "two trunks are called 'main'; names must differ"),
        (TRUNK + 'password = "x"', "there is a password and no `username`"),
        (TRUNK + 'prefixes = ["34"]', 'a prefix is "+" and the first digits of the numbers meant'),
        ('[[trunks]]\nname = "main"', 'a trunk needs `proxy = "sip:host:5060;transport=udp"`'),
        ('[[trunks]]\nname = "main"\nproxy = "tel:1"', 'write it as "sip:host:5060;transport=udp"'),
        ('[[trunks]]\nname = "main"\nproxy = "sip:h;lr"', "the only parameter is ;transport=udp"),
        ('[[trunks]]\nname = "main"\nproxy = "sip:u@h"', 'write it as "sip:host:5060;transport=udp"'),
        ('[media]\nrelay = "rtpengine"', '`relay = "rtpengine"` needs `rtpengine ='),
        ('[media]\nrelay = "rtpengine"\nrtpengine = ["h"]\n' + TRUNK + 'srtp = "optional"', "has srtp: that takes"),
        (TRUNK + 'codecs = ["G722"]', "`codecs` needs PCMA or PCMU"),
        (TRUNK + 'codecs = ["G729"]', "codecs"),
        ('[trunks]\nname = "main"', "write every trunk as a section of its own, [[trunks]]"),
        (TRUNK + 'password = "x"\npassword_file = "y"', "password is given too; keep one of them"),
        (HOOK + HOOK, "two webhooks are called 'main'; names must differ"),
        (
            HOOK + 'events = ["connection.began"]',
            '[[webhooks]] events[0] (the first) = "connection.began": it should be',
        ),
        (HOOK.replace("https", "ftp"), 'write it as "https://crm.example.com/dosvoces"'),
        (HOOK.replace("https://", "https://me:secret@"), "leave out what is before the @"),
        (HOOK + 'name = "webhook_url"', "is who a request names itself: take another name"),
        ('[webhook_urls]\nhosts = ["a.es"]', "`hosts` and `networks` need a `secret`"),
        ('[webhook_urls]\nhosts = ["https://a.es"]', 'write it as "crm.example.com", or "*.example.com"'),
        ('[webhook_urls]\nsecret = "whsec_x"', "write whsec_ and 24 to 64 random bytes in base64"),
        (HOOK + 'networks = ["10.0.0.1/8"]', 'write it as "10.0.0.0/8", with nothing but zeros behind the prefix'),
        (HOOK.replace("crm.example.com", "0x7f.1"), 'write it as "https://crm.example.com/dosvoces"'),
        (HOOK.replace("https", "http"), "only https goes to another network"),
        (HOOK.replace("whsec_Mf", "whsec_*"), '[[webhooks]] secret (the first) = "•••": write whsec_ and 24 to 64'),
        (HOOK.replace("whsec_", ""), "write whsec_ and 24 to 64 random bytes in base64"),
        ('[webhooks]\nurl = "https://h"', "write every webhook as a section of its own, [[webhooks]]"),
        ('[mail]\noutcome_to = "two@a.es, more@b.es"', 'write one plain address, "sales@example.com"'),
        ('[mail]\ntimezone = "Madrid"', 'there is no such time zone: write it as "Europe/Madrid"'),
        ("[record]\nkeep_days = 0", "it should be greater than 0"),
        ("[record]\nlead_days = 30\nkeep_days = 7", "`lead_days` is more than `keep_days`"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in "\n".join(problems(tmp_path, text))


NAMES = 'write it in small letters, digits, "-" and "_", at most 32 ("main")'


@pytest.mark.parametrize(
    ("text", "where", "remedy"),
    [
        (
            '[database]\nurl = "sqlite://x.db"',
            '[database] url = "sqlite://x.db"',
            "it names no file (a record in memory would be lost): write it with three slashes and the file's name, "
            "sqlite:///dosvoces.db",
        ),
        (
            '[database]\nurl = "sqlite:///x.db?mode=ro"',
            '[database] url = "sqlite:///x.db?mode=ro"',
            "what follows the ? is not supported; leave it out",
        ),
        (
            '[database]\nurl = "mysql://h/d"',
            '[database] url = "mysql://h/d"',
            "it begins with mysql://: write it as sqlite:///dosvoces.db, or postgresql://user:password@host/database",
        ),
        ("[http]\nallow = 5", "[http] allow = 5", 'write it as a list, such as ["10.0.0.0/8"]'),
        ("[numbers]\nholidays = [5]", "[numbers] holidays[0] = 5", "write it as a text, in quotes"),
        ("[sip]\nbind = 5060", "[sip] bind = 5060", "write it as a text, in quotes"),
        ('[sip]\nuser_agent = "ñ"', '[sip] user_agent = "ñ"', "write it in ASCII"),
        ("[http]\nhost = 5", "[http] host = 5", "write it as a text, in quotes"),
        ('[http]\ncoalesce = "no way"', '[http] coalesce = "no way"', "write true or false"),
        ('[node]\nname = "a b"', '[node] name = "a b"', "write it in ASCII, no blanks"),
        ('[widget]\ncountry = "es"', '[widget] country = "es"', 'write two capital letters, such as "ES"'),
        ('[[trunks]]\nname = "Main"\ncarrier = "fake"', '[[trunks]] name (the first) = "Main"', NAMES),
        (HOOK + 'name = "CRM"', '[[webhooks]] name (the first) = "CRM"', NAMES),
    ],
)
def test_what_is_miswritten_is_told_in_the_files_words(tmp_path: Path, text: str, where: str, remedy: str) -> None:
    """Not in Python's, and with no pattern."""
    assert problems(tmp_path, text) == [f"{where}: {remedy}"]


def test_every_list_has_an_example_that_is_taken() -> None:
    sections = [_model(info.annotation) for info in Settings.model_fields.values()]
    taken = {}
    for name, info in [each for section in sections if section for each in section.model_fields.items()]:
        if "tuple[" in str(info.annotation):
            kind: Any = Annotated[info.annotation, *info.metadata]
            taken[name] = TypeAdapter(kind).validate_python(tomllib.loads(f"x = {_LIST_EXAMPLES[name]}")["x"])
    assert all(taken.values())
    assert set(taken) == set(_LIST_EXAMPLES)


def toml_blocks(page: Path) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md", "docs/howto/codecs.md", "docs/howto/rtpengine.md"])
def test_the_examples_of_the_documentation_are_valid(page: str, tmp_path: Path) -> None:
    blocks = toml_blocks(ROOT / page)
    assert blocks
    (tmp_path / "trunk.password").write_text("secret\n")
    for block in blocks:
        load(written(tmp_path, block), {})
        assert tomllib.loads(block)


def test_the_references_defaults_are_toml() -> None:
    """So that one can be copied into the file."""
    rows = re.findall(r"^\| `\w+` \| `([^`]+)` \|", reference.settings_page(), re.MULTILINE)
    assert len(rows) > 50
    assert [default for default in rows if tomllib.loads(f"default = {default}") is None] == []


def test_the_reference_is_current() -> None:
    """`make docs` writes it."""
    assert (ROOT / "docs/reference/settings.md").read_text() == reference.settings_page()
