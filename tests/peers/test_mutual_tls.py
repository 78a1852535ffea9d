"""A carrier that wants to see our certificate: Kamailio, which takes no TLS connection without one that it believes."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from dosvoces.doctor import Finding, Level
from dosvoces.doctor.trunks import examine_trunk, own_certificate
from dosvoces.errors import CarrierError
from dosvoces.model import Side
from dosvoces.settings import Settings
from tests.certificates import Authority, Files
from tests.house import ANSWERS, FIRST, SECOND, Phones, house
from tests.peers.kamailio import Kamailio
from tests.peers.sipp import HOST

Shows = Callable[[Authority, Authority], Files | None]
"""Which files of ours are shown, of an authority that the carrier believes, or of another one."""


def ours(authority: Authority, _other: Authority) -> Files:
    return authority.certificate("us.example.com")


def none(_authority: Authority, _other: Authority) -> None:
    return None


def strange(_authority: Authority, other: Authority) -> Files:
    return other.certificate("us.example.com")


def expired(authority: Authority, _other: Authority) -> Files:
    return authority.certificate("us.example.com", valid_days=(-9, -1))


def sip_section(authority: Authority, shown: Files | None) -> dict[str, object]:
    files = {"tls_certificate_file": shown.certificate, "tls_key_file": shown.key} if shown is not None else {}
    return {"tls_ca_file": authority.ca_file, "tls_port": 0, **files}


def demanding(
    folder: Path, phones: dict[Side, str], its: Files, clients: Authority
) -> AbstractAsyncContextManager[Kamailio]:
    return Kamailio.start(folder, phones, certificate=its.certificate, key=its.key, client_ca=clients.ca_file)


def folder_of(path: Path) -> Path:
    path.mkdir()
    return path


REFUSALS = {
    none: "it wants a certificate of ours, and there is none",
    strange: "it refuses our certificate: it doesn't believe who signed it",
    expired: "it refuses our certificate: it has expired",
}


@pytest.mark.parametrize("shows", [ours, *REFUSALS])
async def test_the_certificate_decides(tmp_path: Path, shows: Shows) -> None:
    authority, other = Authority(folder_of(tmp_path / "believed")), Authority(folder_of(tmp_path / "other"))
    shown, its = shows(authority, other), authority.certificate(HOST)
    async with Phones.open({FIRST: ANSWERS, SECOND: ANSWERS}) as phones:
        uris = dict.fromkeys(Side, f"{HOST}:{phones.phone.address[1]}")
        async with demanding(tmp_path, uris, its, authority) as proxy:
            trunk = {"name": "main", "caller_id": "+34910000000", **proxy.trunk("tls"), "options_interval_s": 0}
            sip = sip_section(authority, shown)
            async with house(tmp_path, trunks=[trunk], sip=sip, dialing={"talk_limit_s": 1}) as running:
                subject = running.service.settings
                found = [finding async for finding in examine_trunk(subject, subject.trunks[0])]
                answer = await running.post()
                record = await running.over(answer)
                journal = await running.journal(record)
    hop = f"{HOST}:{proxy.tls_port}/tls"
    if shows is ours:
        assert (answer.status_code, record.outcome, found[0].level) == (200, "completed", Level.OK)
        return
    why = REFUSALS[shows]
    assert (answer.status_code, record.outcome) == (500, "first_failed")
    (ended,) = [entry for entry in journal if entry.event == "ended"]
    assert ended.facts["detail"] == f"destination unreachable; {why}"
    assert phones.seen == []
    assert found == [
        Finding(
            Level.ERROR,
            "trunk main",
            f"{hop} can't be reached: {why}",
            "tls_certificate_file and tls_key_file in [sip] must be a certificate that the carrier has said it takes",
        )
    ]


async def test_a_key_that_does_not_fit_is_told_at_the_start(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    one, two = authority.certificate("us.example.com"), authority.certificate("us.example.com")
    mixed = Files(one.certificate, two.key)
    trunk = {"name": "main", "proxy": f"sip:{HOST}:1;transport=tls", "options_interval_s": 0}
    sip = sip_section(authority, mixed)
    why = f"{mixed.certificate} and {mixed.key} can't be used as certificate and key (PEM): key values mismatch"
    with pytest.raises(CarrierError, match="key values mismatch; see tls_ca_file, tls_certificate_file") as raised:
        async with house(tmp_path, trunks=[trunk], sip=sip):
            pass
    assert str(raised.value).startswith(why)
    (finding,) = own_certificate(Settings.model_validate({"sip": sip}))
    assert (finding.level, finding.text) == (Level.ERROR, why)
