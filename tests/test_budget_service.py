"""Minutes and money of a day at the door of the whole service, and what the settings must say for it."""

import math
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from dosvoces.app.limits import budget
from dosvoces.doctor import Level, _budget
from dosvoces.errors import SettingsError
from dosvoces.model import ConnectionId
from dosvoces.settings import InvalidSettings, Settings, load
from dosvoces.store import LegRecord
from tests.house import ANSWERS, FIRST, House, house_and_phones

RATES = 'currency = "EUR"\n[rates]\n"+346" = 0.6\n"+349" = { per_minute = 1.2, setup = 0.5 }\n'


def rates_file(folder: Path, text: str = RATES) -> str:
    file = folder / "rates.toml"
    file.write_text(text, "utf-8")
    return str(file)


def spent(folder: Path) -> dict[str, int]:
    with closing(connect(folder / "record.db")) as db:
        return dict(db.execute("SELECT counter, used FROM spent").fetchall())


def lasted_s(leg: LegRecord) -> int:
    """Begun seconds from the answer to the end."""
    assert leg.ended_at is not None
    assert leg.answered_at is not None
    return math.ceil((leg.ended_at - leg.answered_at).total_seconds())


async def ask(running: House, second_number: str) -> tuple[int, str]:
    body = {"first_number": "+34600000011", "second_number": second_number, "email": "a@b.es"}
    answer = await running.client.post("/v1/connections", json=body)
    told = answer.json()
    return answer.status_code, told["errors"][0]["code"] if "errors" in told else told.get("detail", "")


async def test_a_call_reserves_the_most_and_pays_for_what_it_was(tmp_path: Path) -> None:
    # 300 s on both lines: 3.0 and 6.5.
    limits = {"minutes_per_day": 11, "budget_per_day": 12.0, "rates_file": rates_file(tmp_path)}
    sections = {"limits": limits, "dialing": {"talk_limit_s": 300, "countries": ["ES", "GB"]}}
    async with house_and_phones(tmp_path, ANSWERS, ANSWERS, **sections) as (running, phones):
        answer = await running.post()
        assert answer.status_code == 200
        assert spent(tmp_path) == {"minutes/day": 600, "money/day": 9_500_000}
        refused = await running.post(firstnumber="+34600000012", secondnumber="+34960000023")
        assert refused.status_code == 429
        assert "the service has used or reserved 10.0 of 11.0 minutes this day" in refused.json()["Message"]
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert await ask(running, "+441603456789") == (400, "no_rate")
        await running.service.switchboard.joined(ConnectionId(answer.headers["location"].rpartition("/")[2]))
        phones.call(FIRST).hang_up()
        record = await running.over(answer)
        first_s, second_s = (lasted_s(leg) for leg in record.legs)
        assert 0 < first_s + second_s < 600
        assert spent(tmp_path) == {
            "minutes/day": first_s + second_s,
            "money/day": first_s * 10_000 + second_s * 20_000 + 500_000,
        }


def test_a_budget_needs_rates(tmp_path: Path) -> None:
    config = tmp_path / "dosvoces.toml"
    config.write_text("[limits]\nbudget_per_day = 20.0\n", "utf-8")
    with pytest.raises(InvalidSettings, match="`budget_per_day` needs to know what calls cost: add `rates_file`"):
        load(config, {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "rates_file = .*: can't be read: No such file"),
        ('currency = "EUR"\n[rates]\n"+34x" = 1\n', r'rates_file = .*: prefix "\+34x": write \+ and the first digits'),
        ('currency = "EUR"\n[rates]\n"+34" = -1\n', r'rates_file = .*: prefix "\+34": the price -1 is no number'),
    ],
)
def test_a_wrong_rate_table_is_refused_at_the_start_and_by_check(tmp_path: Path, text: str | None, words: str) -> None:
    file = str(tmp_path / "none.toml") if text is None else rates_file(tmp_path, text)
    settings = Settings.model_validate({"limits": {"budget_per_day": 20.0, "rates_file": file}})
    with pytest.raises(SettingsError, match=words):
        budget(settings)
    (finding,) = _budget(settings)
    assert (Level.ERROR, "budget") == (finding.level, finding.thing)


def test_minutes_that_no_conversation_fits_in_are_refused() -> None:
    settings = Settings.model_validate({"limits": {"minutes_per_day": 119}})
    with pytest.raises(SettingsError, match="minutes_per_day = 119 has no room for one conversation"):
        budget(settings)


def test_check_tells_of_the_rates(tmp_path: Path) -> None:
    limits = {"budget_per_day": 20.0, "rates_file": rates_file(tmp_path)}
    (finding,) = _budget(Settings.model_validate({"limits": limits}))
    assert (Level.OK, "2 rates in EUR") == (finding.level, finding.text)
    assert [] == list(_budget(Settings()))
