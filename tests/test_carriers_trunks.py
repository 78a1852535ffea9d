"""Which way a call takes, and when a hop is worth a call: pure, with a clock in the test's hands."""

import pytest

from dosvoces.carriers.circuit import MAX_REST_S, OPEN_S, TRIAL_S, Circuit, learn, reached_nobody
from dosvoces.carriers.trunks import STALE_S, Trunk, Trunks
from dosvoces.errors import CarrierError
from dosvoces.model import PhoneNumber
from dosvoces.sip.api import CallEnd, EndCause, Hop
from dosvoces.sip.resolve import Place

ONE, TWO, SPARE = Hop("192.0.2.1", 5060), Hop("192.0.2.2", 5060), Hop("192.0.2.9", 5060)
MADRID = PhoneNumber("+34910000011", "910000011")
LISBON = PhoneNumber("+351210000011", "210000011")


def the_trunks() -> Trunks:
    """`main` with two hops takes Spain, `spare` everything."""
    trunks = Trunks(
        [Trunk("main", "main.example", prefixes=("+34",)), Trunk("spare", "spare.example", 5060)], lambda most: most
    )
    main, spare = trunks.lines
    main.found((Place((ONE, TWO)),), 100.0)
    spare.found((Place((SPARE,)),), None)
    return trunks


def names(trunks: Trunks, number: PhoneNumber = MADRID, now: float = 0.0, avoid: tuple[str, ...] = ()) -> list[str]:
    return [str(way) for way in trunks.ways(number, now, avoid)]


MAIN_ONE, MAIN_TWO, SPARE_WAY = "main 192.0.2.1:5060/udp", "main 192.0.2.2:5060/udp", "spare 192.0.2.9:5060/udp"

# --- ways ---


def test_ways_are_the_trunks_in_order_and_each_one_s_hops_in_order() -> None:
    assert names(the_trunks()) == [MAIN_ONE, MAIN_TWO, SPARE_WAY]


def test_a_trunk_takes_the_numbers_of_its_prefixes_only() -> None:
    assert names(the_trunks(), LISBON) == [SPARE_WAY]


def test_a_way_that_failed_before_is_not_taken_again() -> None:
    trunks = the_trunks()
    assert names(trunks, avoid=(MAIN_ONE,)) == [MAIN_TWO, SPARE_WAY]
    assert names(trunks, avoid=("main",)) == [SPARE_WAY]
    assert trunks.another(MADRID, 0.0, (MAIN_ONE, MAIN_TWO))
    assert not trunks.another(MADRID, 0.0, (MAIN_ONE, MAIN_TWO, SPARE_WAY))
    with pytest.raises(CarrierError, match=r"^no further way to \+34910•••011$"):
        trunks.way(MADRID, 0.0, (MAIN_ONE, MAIN_TWO, SPARE_WAY))


def test_an_open_circuit_is_passed_by() -> None:
    trunks = the_trunks()
    opened(trunks.way(MADRID, 0.0).circuit, 0.0)
    assert names(trunks) == [MAIN_TWO, SPARE_WAY]
    assert trunks.problems([MADRID], 0.0) == []
    assert trunks.warnings(0.0) == ["trunk main: 192.0.2.1:5060/udp is down (no answer)"]


def test_a_half_open_circuit_is_told_until_its_trial_succeeded() -> None:
    trunks = the_trunks()
    circuit = trunks.way(MADRID, 0.0).circuit
    opened(circuit, 0.0)
    told = ["trunk main: 192.0.2.1:5060/udp is down (no answer)"]
    assert circuit.usable(OPEN_S)
    assert trunks.warnings(OPEN_S) == told
    circuit.take(OPEN_S)
    assert trunks.warnings(OPEN_S) == told
    circuit.answered()
    assert trunks.warnings(OPEN_S) == []


def test_a_trunk_that_doesn_t_know_us_is_passed_by() -> None:
    trunks = the_trunks()
    trunks.lines[0].registration_trouble = "403 Forbidden"
    assert names(trunks) == [SPARE_WAY]
    assert trunks.warnings(0.0) == ["trunk main is not registered: 403 Forbidden"]


def test_no_trunk_up_is_a_problem_and_so_is_none_for_a_number() -> None:
    trunks = the_trunks()
    opened(trunks.lines[1].circuit(SPARE), 0.0)
    down = "trunk spare is down (192.0.2.9:5060/udp: no answer)"
    assert trunks.problems([MADRID], 0.0) == []
    assert trunks.problems([MADRID, LISBON], 0.0) == ["no trunk is up for +35121•••011", down]
    assert trunks.problems([], 0.0) == []
    trunks.lines[0].registration_trouble = "no answer yet"
    assert trunks.problems([], 0.0) == ["no trunk is up", "trunk main is not registered: no answer yet", down]
    with pytest.raises(CarrierError) as caught:
        trunks.way(LISBON, 0.0)
    assert (str(caught.value), caught.value.permanent) == (f"no trunk is up for +35121•••011; {down}", False)


def test_a_number_that_no_trunk_takes_is_a_problem_for_good() -> None:
    trunks = Trunks([Trunk("main", "main.example", prefixes=("+34",))], lambda most: most)
    with pytest.raises(CarrierError) as caught:
        trunks.way(LISBON, 0.0)
    assert (str(caught.value), caught.value.permanent) == (
        "no trunk takes +35121•••011: see the trunks' prefixes",
        True,
    )


def test_no_trunk_at_all_is_a_problem() -> None:
    trunks = Trunks([], lambda most: most)
    assert trunks.problems([], 0.0) == ["no trunk is configured: add [[trunks]] to dosvoces.toml"]


def test_what_the_dns_last_said_is_good_for_an_hour_more() -> None:
    trunks = the_trunks()
    main = trunks.lines[0]
    main.not_found("main.example: SERVFAIL")
    assert main.hops(100.0 + STALE_S) == (ONE, TWO)
    assert trunks.warnings(200.0) == ["trunk main: main.example: SERVFAIL; the last addresses are used"]
    assert main.hops(100.1 + STALE_S) == ()
    assert main.problem(100.1 + STALE_S) == "trunk main can't be found: main.example: SERVFAIL"


def test_a_hop_that_stays_keeps_its_circuit() -> None:
    trunks = the_trunks()
    main = trunks.lines[0]
    opened(main.circuit(ONE), 0.0)
    main.found((Place((ONE, SPARE)),), 200.0)
    assert names(trunks) == ["main 192.0.2.9:5060/udp", SPARE_WAY]


def test_the_trunk_at_an_address_is_known() -> None:
    trunks = the_trunks()
    assert trunks.at("192.0.2.2", 5060, 0.0) is trunks.lines[0]
    assert trunks.at("192.0.2.2", 5070, 0.0) is None


def test_a_trunk_is_known_by_its_name() -> None:
    trunks = the_trunks()
    assert [trunks.named(line.trunk.name) for line in trunks.lines] == list(trunks.lines)
    assert trunks.named("") is None


@pytest.mark.parametrize(
    ("trunk", "expected"),
    [
        (Trunk("a", "sip.example.com"), "sip:+34@sip.example.com"),
        (Trunk("a", "sip.example.com", 5060), "sip:+34@sip.example.com"),
        (Trunk("a", "2001:db8::1", 5070), "sip:+34@[2001:db8::1]:5070"),
        (Trunk("a", "sip.example.com", secure=True), "sip:+34@sip.example.com"),
    ],
)
def test_uris_say_the_proxy_as_it_is_configured(trunk: Trunk, expected: str) -> None:
    assert trunk.uri("+34") == expected


def test_the_digest_has_its_own_name_and_realm() -> None:
    trunk = Trunk("a", "h", username="us", password="secret", auth_username="digest", realm="r")
    assert trunk.credentials is not None
    assert (trunk.credentials.username, trunk.credentials.realm) == ("digest", "r")
    assert Trunk("a", "h").credentials is None


# --- circuits ---


def opened(circuit: Circuit, now: float) -> Circuit:
    circuit.failed(now, "no answer")
    circuit.failed(now, "no answer")
    assert not circuit.closed
    return circuit


def test_one_failure_is_a_suspicion_two_in_a_row_open() -> None:
    circuit = Circuit()
    circuit.failed(0.0, "no answer")
    assert (circuit.usable(0.0), circuit.suspect) == (True, True)
    circuit.answered()
    circuit.failed(1.0, "no answer")
    assert circuit.usable(1.0)
    circuit.failed(2.0, "no answer")
    assert (circuit.usable(2.0), circuit.suspect) == (False, False)


def test_an_open_circuit_lets_one_trial_through_and_no_more() -> None:
    circuit = opened(Circuit(), 0.0)
    assert not circuit.usable(OPEN_S - 0.1)
    assert circuit.usable(OPEN_S)
    circuit.take(OPEN_S)
    assert not circuit.usable(OPEN_S + 1)
    circuit.answered()
    assert (circuit.closed, circuit.usable(OPEN_S + 1)) == (True, True)


def test_a_failed_trial_opens_for_longer_up_to_a_limit() -> None:
    circuit, now, pauses = opened(Circuit(), 0.0), 0.0, []
    for _ in range(4):
        trial = next(at for at in range(int(now), int(now) + 100) if circuit.usable(at))
        pauses.append(trial - now)
        now = float(trial)
        circuit.take(now)
        circuit.failed(now, "no answer")
    assert pauses == [15, 30, 60, 60]


def test_a_trial_of_which_nothing_is_heard_is_forgotten() -> None:
    circuit = opened(Circuit(), 0.0)
    circuit.take(OPEN_S)
    assert circuit.usable(OPEN_S + TRIAL_S)


@pytest.mark.parametrize(("asked_s", "rests_s"), [(10, 10.0), (3600, MAX_REST_S)])
def test_a_503_with_retry_after_rests_that_long_but_not_for_ever(asked_s: int, rests_s: float) -> None:
    circuit = Circuit()
    circuit.refused(5.0, asked_s)
    assert not circuit.usable(5.0 + rests_s - 0.1)
    assert circuit.usable(5.0 + rests_s)
    assert circuit.closed


def test_a_503_without_retry_after_is_a_failure() -> None:
    circuit = Circuit()
    circuit.refused(0.0, None)
    circuit.refused(0.0, None)
    assert not circuit.usable(0.0)


def test_pings_open_and_close() -> None:
    circuit = Circuit()
    circuit.ping_answered()
    circuit.ping_unanswered(10.0)
    circuit.ping_unanswered(12.0)
    assert (circuit.usable(12.0), circuit.why) == (False, "no answer to OPTIONS")
    circuit.ping_answered()
    assert circuit.usable(12.0)


def test_who_answers_calls_and_never_pings_is_up() -> None:
    circuit = Circuit()
    circuit.answered()
    for now in range(5):
        circuit.ping_unanswered(float(now))
    assert circuit.usable(5.0)


def test_silent_pings_from_the_start_leave_room_for_a_trial_call() -> None:
    circuit = Circuit()
    for now in range(0, int(OPEN_S) + 5, 2):
        circuit.ping_unanswered(float(now))
    assert not circuit.closed
    # The third ping and those after it don't put the trial off.
    assert circuit.usable(2.0 + OPEN_S)


# --- what an end tells ---


def end(cause: EndCause, status: int | None = None, heard: int = 0, retry_after_s: int | None = None) -> CallEnd:
    return CallEnd(cause, "remote", status, "", "", heard, retry_after_s)


REJECTED = EndCause.REJECTED


@pytest.mark.parametrize("status", [500, 502, 503, 504, 580])
@pytest.mark.parametrize("heard", [0, 100])
def test_a_server_that_fails_before_any_18x_has_reached_nobody(status: int, heard: int) -> None:
    assert reached_nobody(end(REJECTED, status, heard))


@pytest.mark.parametrize("heard", [180, 181, 182, 183, 199])
@pytest.mark.parametrize("status", [408, 500, 503])
def test_after_any_18x_somebody_may_have_been_rung(status: int, heard: int) -> None:
    assert not reached_nobody(end(REJECTED, status, heard))


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 407, 410, 480, 484, 486, 487, 488, 600, 603, 604, 606])
def test_a_refusal_is_not_tried_elsewhere(status: int) -> None:
    assert not reached_nobody(end(REJECTED, status))


def test_408_and_silence_reach_nobody_only_without_any_provisional() -> None:
    assert reached_nobody(end(REJECTED, 408))
    assert not reached_nobody(end(REJECTED, 408, 100))
    assert reached_nobody(end(EndCause.TIMEOUT))
    assert reached_nobody(end(EndCause.TRANSPORT))
    assert not reached_nobody(end(EndCause.TRANSPORT, None, 100))


@pytest.mark.parametrize("cause", [EndCause.HANGUP, EndCause.CANCELLED, EndCause.PROTOCOL])
def test_what_we_ended_or_what_was_up_is_over(cause: EndCause) -> None:
    assert not reached_nobody(end(cause))


def test_a_circuit_learns_from_the_ends_of_calls() -> None:
    circuit = Circuit()
    learn(circuit, end(EndCause.TIMEOUT), 0.0)
    assert (circuit.failures, circuit.why) == (1, "no answer")
    learn(circuit, end(REJECTED, 486), 0.0)
    assert circuit.failures == 0
    learn(circuit, end(EndCause.TRANSPORT), 0.0)
    assert circuit.why == "nobody is there"
    learn(circuit, end(REJECTED, 503, 100, 7), 1.0)
    assert circuit.rests_until == 8.0
    # A 503 after 180 is the callee's side; the trunk works.
    learn(circuit, end(REJECTED, 503, 180, 7), 20.0)
    assert (circuit.rests_until, circuit.failures) == (8.0, 0)


def test_a_call_that_we_cancelled_in_the_silence_says_nothing() -> None:
    circuit = Circuit()
    learn(circuit, end(EndCause.CANCELLED), 0.0)
    assert (circuit.failures, circuit.closed) == (0, True)
