"""What is pushed becomes reads and events: times, quality, ids. Pure."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from headend.concentrators.presence import PresenceState
from headend.concentrators.reads import event_of, reads_of
from headend.concentrators.tally import Refusals, Strangers
from headend.model import Quality, Read
from protocols.concentrator.messages import MeterData, MeterEvent, PushedValue
from protocols.values import Obis, Unit
from tests.headend.concentrators.support import HES, meter

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
MS = timedelta(milliseconds=1)


def value(amount: str | None = "123.40", problem: str = "", obis: str | None = "1-0:1.8.0") -> PushedValue:
    return PushedValue(
        name=obis or "phase_of_moon",
        obis=None if obis is None else Obis(obis),
        amount=None if amount is None else Decimal(amount),
        unit=Unit.KWH,
        problem=problem,
    )


def reads(*values: PushedValue, at: datetime | None = NOW - 1500 * MS) -> list[Read | None]:
    data = MeterData(concentrator="C1", meter="000000000001", at=at, values=values)
    return [None if one is None else one.read for _, one in reads_of(data, meter(1), HES, NOW)]


def test_a_value_keeps_its_digits_its_time_and_where_it_came_from() -> None:
    [read] = reads(value())
    assert read is not None
    assert (read.meter, str(read.amount), read.obis, read.unit) == ("M000001", "123.40", "1-0:1.8.0", Unit.KWH)
    assert read.interval_end == read.read_at == NOW - 1500 * MS
    assert read.received_at == NOW
    assert read.quality == (Quality.MEASURED,)
    assert read.source == "concentrator/hes_v1:1-0:1.8.0"


def test_a_doubted_number_is_suspect_and_no_number_is_missing_with_its_reason() -> None:
    doubted, broken, absent = reads(value(problem="invalid"), value(None, "2014"), value(None))
    assert doubted is not None
    assert broken is not None
    assert absent is not None
    assert doubted.quality == (Quality.MEASURED, Quality.SUSPECT)
    assert (broken.quality, broken.reason) == ((Quality.MISSING,), "concentrator-error")
    assert (absent.quality, absent.reason) == ((Quality.MISSING,), "not-measured")


def test_a_quantity_that_nobody_knows_is_no_read() -> None:
    assert reads(value(obis=None)) == [None]


def test_a_payload_without_a_time_is_taken_when_it_came() -> None:
    [read] = reads(value(), at=None)
    assert read is not None
    assert (read.interval_end, read.read_at) == (NOW, None)


def test_a_payload_without_a_time_that_has_waited_at_the_broker_is_suspect() -> None:
    data = MeterData(concentrator="C1", meter="000000000001", at=None, values=(value(),))
    [(_, pushed)] = reads_of(data, meter(1), HES, NOW, has_waited=True)
    assert pushed is not None
    assert pushed.read.quality == (Quality.MEASURED, Quality.SUSPECT)
    timed = MeterData(concentrator="C1", meter="000000000001", at=NOW - 1500 * MS, values=(value(),))
    [(_, pushed)] = reads_of(timed, meter(1), HES, NOW, has_waited=True)
    assert pushed is not None
    assert pushed.read.quality == (Quality.MEASURED,), "its own time says all"


def test_a_clock_ahead_or_never_set_makes_its_reads_suspect() -> None:
    for at, suspect in (
        (NOW + timedelta(seconds=299), False),
        (NOW + timedelta(seconds=301), True),
        (NOW - timedelta(days=400), False),
        (datetime(2020, 1, 1, 0, 5, tzinfo=UTC), True),
        (datetime(1970, 1, 1, 0, 5, tzinfo=UTC), True),
    ):
        [read] = reads(value(), at=at)
        assert read is not None
        assert (Quality.SUSPECT in read.quality) is suspect


def test_a_time_finer_than_a_millisecond_is_cut_off() -> None:
    [read] = reads(value(), at=NOW + timedelta(microseconds=1999))
    assert read is not None
    assert read.interval_end == NOW + MS


def test_an_event_has_one_id_for_one_happening() -> None:
    told = MeterEvent(concentrator="C1", meter="1", at=NOW, name="relay", detail={"b": Decimal("1.50"), "a": 1})
    same = MeterEvent(concentrator="C1", meter="1", at=NOW, name="relay", detail={"a": 1, "b": Decimal("1.50")})
    other = MeterEvent(concentrator="C1", meter="1", at=NOW, name="relay", detail={"a": 2})
    timeless = MeterEvent(concentrator="C1", meter="1", at=None, name="relay", detail={})
    first, second, third, fourth = (event_of(one, meter(1), NOW) for one in (told, same, other, timeless))
    assert first.id == second.id != third.id
    assert first.data["detail"] == {"a": 1, "b": "1.50"}
    assert fourth.id == ""


def test_presence_follows_what_is_said_heard_and_not_heard() -> None:
    presence = PresenceState(silent_after_s=60)
    assert presence.look(NOW, 1000, None) is None
    assert presence.look(NOW, 1000, 990) is None
    silent = presence.look(NOW, 1050, 990)
    assert silent is not None
    assert (silent.online, silent.reason, presence.has_left) == (False, "silence", False)
    heard = presence.heard(NOW, 1051)
    assert heard is not None
    assert heard.online
    assert presence.heard(NOW, 1052) is None
    left = presence.said(False, None, NOW, 1053, is_live=True)
    assert left is not None
    assert (left.reason, presence.has_left) == ("last-will", True)
    assert presence.look(NOW, 9999, 990) is None


def test_an_older_status_that_comes_later_changes_nothing() -> None:
    presence = PresenceState(silent_after_s=60)
    assert presence.said(True, NOW, NOW, 0, is_live=True) is not None
    assert presence.said(False, NOW + MS, NOW, 0, is_live=True) is not None
    assert presence.said(True, NOW, NOW, 0, is_live=True) is None
    assert presence.online is False


def test_a_status_that_lay_at_the_broker_is_no_sign_of_life() -> None:
    presence = PresenceState(silent_after_s=60)
    change = presence.said(True, NOW, NOW, 1000, is_live=False)
    assert change is not None
    assert presence.last_message_at is None
    assert presence.look(NOW, 1060, 1000) is not None


def test_the_same_change_has_the_same_id_after_a_restart() -> None:
    changes = [PresenceState(60).said(True, NOW, NOW + MS * n, 0, is_live=False) for n in range(2)]
    assert len({change.event("C1", NOW).id for change in changes if change is not None}) == 1


def test_a_flood_of_new_names_pushes_out_nobody_and_costs_bounded_memory() -> None:
    strangers = Strangers(names_max=10)
    strangers.note(("first",), NOW)
    for number in range(1000):
        strangers.note((f"n{number}" + "x" * 10_000,), NOW, "d")
    strangers.note(("first",), NOW + MS)
    assert (len(strangers.seen), strangers.overflow) == (10, 991)
    assert strangers.seen[("first",)].count == 2
    assert max(len(name) for (name,) in strangers.seen) == 128


def test_refusals_are_all_counted_and_logged_once_a_minute(capsys: object) -> None:
    refusals = Refusals("b1")
    for number in range(1000):
        refusals.note("json", number / 10, topic="t" * 1000)
    assert refusals.counts["json"] == 1000
    assert len(refusals._logged) == 1
