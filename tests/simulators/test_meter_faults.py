"""Faults of the meter itself: clock, power, swap, relay. They happen when they are due, whoever asks or does not."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from protocols.dlt645 import messages as m
from protocols.dlt645.frame import Frame
from protocols.dlt645.framer import Framer, Heard
from protocols.dlt645.items import Di, decode
from protocols.dlt645.load_record import decode_blocks, decode_curve
from simulators.dlt645_bus import Dlt645Bus
from simulators.faults import Fault, FaultKind, FaultPlan
from simulators.load_curve import Kind, Quantity
from simulators.meter_clock import MeterClock
from tests.simulators.bench import ADDRESS, HOUR, NOW, meter, relay

K = FaultKind
MINUTE = timedelta(minutes=1)


class Bench:
    """A bus asked by messages: every request a second of its own, replies taken as they come."""

    def __init__(self, *faults: Fault, kind: Kind = Kind.SHOP) -> None:
        self.device = meter(kind, reply_delay_s=0.02)
        self.bus = Dlt645Bus([self.device], faults=FaultPlan(seed=1, faults=faults))
        self.tick(NOW - HOUR)

    def tick(self, now: datetime) -> list[Frame]:
        self.bus.tick((now - NOW).total_seconds(), now)
        wires = self.bus.take_output()
        return [found.frame for wire in wires for found in Framer().receive(wire, 0.0) if isinstance(found, Heard)]

    def ask(self, request: m.Message, now: datetime = NOW) -> m.Message | None:
        self.bus.receive(m.encode(request, ADDRESS).to_bytes(), (now - NOW).total_seconds(), now)
        frames = self.tick(now + timedelta(seconds=1))
        return m.decode(frames[0]) if frames else None

    def read(self, di: str, now: datetime = NOW, **form: Any) -> list[Any]:
        reply = self.ask(m.ReadRequest(di=Di(di), **form), now)
        assert isinstance(reply, m.ReadReply), reply
        return [value.content for value in decode(reply.data, self.device.contract.find(Di(di)))]

    def times(self, di: str, count: int, start: str, now: datetime = NOW) -> list[datetime | None]:
        reply = self.ask(m.ReadRequest(di=Di(di), count=count, start=start), now)
        assert isinstance(reply, m.ReadReply), reply
        return [block.at for block in decode_blocks(reply.data)]


def test_a_clock_step_happens_once_at_its_time_and_what_was_recorded_before_stays() -> None:
    bench = Bench(Fault(kind=K.CLOCK_STEP, start=NOW - 50 * MINUTE, parameters={"step_s": 600}))
    assert bench.read("04000102", NOW - 55 * MINUTE) == ["103500"]
    assert bench.read("04000102") == ["114000"]
    frozen = bench.device.model.energy(Quantity.FORWARD, 0, NOW - 90 * MINUTE)
    (energy, *_) = bench.read("06100601", count=1, start="2506171000")
    assert energy == frozen  # 10:00 was before the step
    bench.bus.faults = FaultPlan()
    assert bench.read("04000102", NOW + MINUTE) == ["114100"]
    assert bench.bus.struck == {"clock-step": 1}


def test_moments_that_a_step_left_out_were_never_recorded() -> None:
    bench = Bench(Fault(kind=K.CLOCK_STEP, start=NOW - 40 * MINUTE, parameters={"step_s": 1500}))
    # 10:50 became 11:15; it is 11:55 by the meter now.
    times = bench.times("06010001", 9, "2506171030")
    assert [at.strftime("%H%M") for at in times if at] == ["1030", "1045", "1115", "1130", "1145"]
    reply = bench.ask(m.ReadRequest(di=Di("06100101"), count=9, start="2506171030"))
    assert isinstance(reply, m.ReadReply)
    points = decode_curve(reply.data, bench.device.contract.find(reply.di))
    assert [point.content is None for point in points] == [False, False, True, False, False, False]


def test_a_drifting_clock_gains_while_the_fault_is_on() -> None:
    bench = Bench(Fault(kind=K.CLOCK_DRIFT, start=NOW - 30 * MINUTE, until=NOW, parameters={"ppm": 10_000}))
    assert bench.read("04000102", NOW) == ["113018"]
    assert bench.read("04000102", NOW + HOUR) == ["123018"]


@pytest.mark.parametrize(("clock", "shown"), [("keeps", "113000"), ("stops", "110500")])
def test_a_power_cut_silences_stops_counting_and_leaves_a_gap(clock: str, shown: str) -> None:
    cut = Fault(
        kind=K.POWER_CUT, start=NOW - 50 * MINUTE, until=NOW - 25 * MINUTE, parameters={"clock": clock}, name="cut"
    )
    bench = Bench(cut)
    model = bench.device.model
    assert bench.ask(m.ReadRequest(di=Di("00010000")), NOW - 30 * MINUTE) is None
    assert bench.read("04000102") == [shown]
    assert model.energies(NOW - 50 * MINUTE) == model.energies(NOW - 25 * MINUTE) != model.energies(NOW)
    assert bench.read("03110000") == [1]
    began, ended = bench.read("03110001")
    assert began == "250617104000"
    assert ended == ("250617110500" if clock == "keeps" else "250617104000")
    assert bench.read("04000501")[0] == ("0002" if clock == "keeps" else "0006")
    times = [at.strftime("%H%M") for at in bench.times("06040001", 9, "2506171000") if at]
    assert times == (
        ["1000", "1015", "1030", "1115", "1130"] if clock == "keeps" else ["1000", "1015", "1030", "1045", "1100"]
    )


def test_a_cut_during_an_open_relay_loses_energy_once() -> None:
    bench = Bench(Fault(kind=K.POWER_CUT, start=NOW - 40 * MINUTE, until=NOW - 20 * MINUTE))
    bench.device.model.open_relay(NOW - 50 * MINUTE)
    bench.tick(NOW)
    model = bench.device.model
    assert model.energies(NOW) == model.energies(NOW - 50 * MINUTE)
    model.close_relay(NOW)
    gained = model.curve.energy(NOW, NOW + HOUR)
    assert tuple(map(int.__add__, model.energies(NOW), gained)) == model.energies(NOW + HOUR)


def test_a_swapped_meter_has_the_address_and_other_registers_until_it_is_put_back() -> None:
    bench = Bench(Fault(kind=K.METER_SWAP, start=NOW, until=NOW + HOUR))
    before = bench.read("00010000", NOW - MINUTE)
    during = bench.read("00010000", NOW + MINUTE)
    assert bench.read("04000401", NOW + MINUTE) == [ADDRESS]
    assert bench.bus.device(bench.device) is not bench.device
    after = bench.read("00010000", NOW + 2 * HOUR)
    assert abs(during[0] - before[0]) > 100
    assert 0 < after[0] - before[0] < 100


def trip(bench: Bench, now: datetime = NOW) -> m.Message | None:
    return bench.ask(relay(0x1A), now)


def test_a_stuck_relay_acknowledges_and_the_load_goes_on() -> None:
    bench = Bench(Fault(kind=K.STUCK_RELAY))
    assert trip(bench) == m.RelayReply()
    assert bench.read("04000503") == ["0040"]  # commanded open, contact closed
    assert bench.read("04000501") == ["0102"]  # and the meter knows
    assert bench.read("0202FF00")[0] > 0
    assert bench.read("1D000001") == [1]
    assert bench.read("03360000") == [1]
    bench.bus.faults = FaultPlan()
    assert trip(bench, NOW + MINUTE) == m.RelayReply()
    assert bench.read("04000503", NOW + MINUTE) == ["0050"]
    assert bench.read("0202FF00", NOW + MINUTE)[0] == 0


def test_a_stuck_relay_that_the_meter_does_not_sense_shows_in_the_load_only() -> None:
    bench = Bench(Fault(kind=K.STUCK_RELAY, parameters={"senses": False}))
    trip(bench)
    assert bench.read("04000503") == ["0050"]
    assert bench.read("04000501") == ["0002"]
    assert bench.read("0202FF00")[0] > 0


def test_an_acknowledged_order_may_have_done_nothing() -> None:
    bench = Bench(Fault(kind=K.ACK_WITHOUT_SWITCH))
    assert trip(bench) == m.RelayReply()
    assert bench.read("04000503") == ["0000"]
    assert bench.read("1D000001") == [0]
    assert bench.bus.struck == {"ack-without-switch": 1}
    bench.bus.faults = FaultPlan()
    trip(bench)
    assert bench.read("04000503") == ["0050"]


def test_whatever_the_clock_goes_through_a_recorded_moment_is_found_again() -> None:
    zone = NOW.tzinfo
    assert zone is not None
    clock = MeterClock(zone, set_at=NOW, offset=timedelta(seconds=7), drift_ppm=20)
    for hours, seconds in ((5, 30), (30, -20), (50, 300)):
        clock.step(timedelta(seconds=seconds), NOW + hours * HOUR)
        clock.drift(-40, NOW + (hours + 1) * HOUR)
    for hours in range(-40, 100):
        at = NOW + hours * HOUR + 17 * MINUTE
        assert abs(clock.true_time(clock.shown(at)) - at) < timedelta(milliseconds=1)
