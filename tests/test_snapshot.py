"""What a webhook says of a connection is what its resource says, and more."""

import json
from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

from pydantic import TypeAdapter

from dosvoces.deferred.messages import message
from dosvoces.store import ConnectionRecord, Entry, LegRecord
from dosvoces.store.reports import ENDED, Report
from dosvoces.testing import T0, A, an_order
from dosvoces.web.views import ConnectionView, LegView, connection_view

ID = an_order(1).id
LEG = LegRecord(A, "+34600000011", "ended", T0, T0 + timedelta(seconds=2), T0 + timedelta(seconds=9), "hangup", "BYE")
RECORD = ConnectionRecord(
    id=ID,
    created_at=T0,
    phase="ended",
    outcome="completed",
    ended_by="a",
    first="+34600000011",
    second="+34960000022",
    email="ana@example.com",
    lead={"city": "Valencia"},
    interval_s=3,
    joined_at=T0 + timedelta(seconds=5),
    ended_at=T0 + timedelta(seconds=9),
    answer_status=200,
    legs=[LEG, replace(LEG, answered_at=None, detail="486 Busy Here")],
    mail="sent",
    ring_timeout_s=20,
    locale="es",
    metadata={"lead_id": "4711"},
)
STATISTICS = [Entry(ID, T0, "statistics", A, "ended", "ended", {"received": 100, "mos": 4.4, "other": 1}, 9)]


def test_a_message_has_all_that_the_resource_has() -> None:
    said = json.loads(message(Report(ID, 7, ENDED, None, T0, None), RECORD, STATISTICS))["data"]
    view: dict[str, Any] = TypeAdapter(ConnectionView).dump_python(connection_view(RECORD, STATISTICS, T0), mode="json")
    assert set(view) == {field.name for field in fields(ConnectionView)}
    legs, shown = said.pop("legs"), view.pop("legs")
    assert {name: said[name] for name in view} == view
    assert said["sequence"] == 7
    for leg, masked in zip(legs, shown, strict=True):
        assert set(leg) == {field.name for field in fields(LegView)}
        assert leg == masked | {"number": "+34600000011"}
