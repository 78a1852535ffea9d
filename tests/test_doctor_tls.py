"""What `dosvoces check` finds of certificates, and of trunks by TCP and TLS."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dosvoces.doctor import Finding, Level, offline
from dosvoces.doctor.trunks import examine_trunk, own_certificate
from dosvoces.phone import Phone
from dosvoces.settings import Settings
from dosvoces.sip.tls import Tls
from tests.certificates import Authority, Files

HOST = "127.0.0.1"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(proxy: str = "sip:127.0.0.1:1;transport=tls", ca_file: str = "system", **trunk: object) -> Settings:
    found: dict[str, object] = {"name": "main", "proxy": proxy, "caller_id": "+34910000000", **trunk}
    sip = {"tls_ca_file": ca_file, "bind": f"{HOST}:0", "tls_port": 0}
    return Settings.model_validate({"sip": sip, "trunks": [found]})


async def findings(subject: Settings) -> list[Finding]:
    return [finding async for finding in examine_trunk(subject, subject.trunks[0])]


def day(days: float) -> str:
    return f"{datetime.now(UTC) + timedelta(days=days):%Y-%m-%d}"


def shown(files: Files) -> Tls:
    return Tls(certificate_file=files.certificate, key_file=files.key, port=0)


@pytest.mark.parametrize(("days", "level"), [(90, Level.OK), (5, Level.WARNING)])
async def test_trunk_by_tls(authority: Authority, days: float, level: Level) -> None:
    async with Phone.open(tls=shown(authority.certificate(HOST, valid_days=(-1, days)))) as phone:
        found = await findings(settings(f"sip:{HOST}:{phone.tls_port};transport=tls", authority.ca_file))
        hop = f"{HOST}:{phone.tls_port}/tls"
    assert found == [
        Finding(Level.OK, "trunk main", f"{hop} answers (200 OK)"),
        Finding(
            level,
            "trunk main",
            f"its certificate is good until {day(days)}",
            "" if level is Level.OK else "tell the carrier",
        ),
    ]


@pytest.mark.parametrize(
    ("name", "valid_days", "why"),
    [
        ("192.0.2.1", (-1, 90), "IP address mismatch, certificate is not valid for '127.0.0.1'."),
        (HOST, (-9, -1), "certificate has expired"),
    ],
)
async def test_trunk_whose_certificate_is_refused(
    authority: Authority, name: str, valid_days: tuple[float, float], why: str
) -> None:
    async with Phone.open(tls=shown(authority.certificate(name, valid_days=valid_days))) as phone:
        subject = settings(f"sip:{HOST}:{phone.tls_port};transport=tls", authority.ca_file)
        (finding,) = await findings(subject)
        hop = f"{HOST}:{phone.tls_port}/tls"
    assert (finding.level, finding.text) == (
        Level.ERROR,
        f"{hop} can't be reached: its certificate is refused: {why}",
    )
    assert finding.remedy.startswith("its certificate must be of the host that proxy names")


async def test_trunk_by_tcp() -> None:
    async with Phone.open() as phone:
        (finding,) = await findings(settings(f"sip:{HOST}:{phone.address[1]};transport=tcp"))
        assert finding == Finding(Level.OK, "trunk main", f"{HOST}:{phone.address[1]}/tcp answers (200 OK)")
    with socket.socket() as closed:
        closed.bind((HOST, 0))
        port = closed.getsockname()[1]
    (finding,) = await findings(settings(f"sip:{HOST}:{port};transport=tcp"))
    assert finding == Finding(
        Level.ERROR,
        "trunk main",
        f"{HOST}:{port}/tcp can't be reached: Connection refused",
        "mend its proxy; see that it runs and that TCP gets there",
    )


async def test_trunk_that_anybody_may_speak_for(authority: Authority) -> None:
    async with Phone.open(tls=shown(authority.certificate("other.example.com", valid_days=(-9, -1)))) as phone:
        subject = settings(f"sip:{HOST}:{phone.tls_port};transport=tls", tls_verify=False)
        (finding,) = await findings(subject)
        assert finding.level is Level.OK
    (warning,) = [finding for finding in offline(subject) if "tls_verify" in finding.text]
    assert (warning.level, warning.thing) == (Level.WARNING, "trunk main")


def of_files(**sip: object) -> list[Finding]:
    return list(own_certificate(Settings.model_validate({"sip": sip})))


def test_our_own_certificate(authority: Authority, tmp_path: Path) -> None:
    assert of_files() == []
    good = authority.certificate("us.example.com", valid_days=(-1, 60))
    assert of_files(tls_certificate_file=good.certificate, tls_key_file=good.key) == [
        Finding(Level.OK, "tls", f"our certificate is good until {day(60)}")
    ]
    soon = authority.certificate("us.example.com", valid_days=(-1, 3))
    assert of_files(tls_certificate_file=soon.certificate, tls_key_file=soon.key) == [
        Finding(
            Level.WARNING,
            "tls",
            f"our certificate is good until {day(3)}",
            "renew it, and start the service again",
        )
    ]
    over = authority.certificate("us.example.com", valid_days=(-9, -1))
    for files, why in (
        ({"tls_certificate_file": over.certificate, "tls_key_file": over.key}, "certificate has expired"),
        ({"tls_certificate_file": good.certificate, "tls_key_file": over.key}, "key values mismatch"),
        ({"tls_certificate_file": str(tmp_path / "none.pem")}, "No such file or directory"),
        ({"tls_ca_file": good.key}, "no certificate or crl found"),
    ):
        (finding,) = of_files(**files)
        assert (finding.level, finding.thing) == (Level.ERROR, "tls")
        assert why in finding.text
