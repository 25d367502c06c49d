"""Scans of simulated lines: who is found, in how many exchanges, in what time."""

import pytest

from headend.scanning.planned import PlannedMeter
from headend.scanning.scanner import BAUDS_FIRST, PARITIES_FIRST, Step
from headend.scanning.state import Setting
from protocols.dlt645.control import Dialect
from simulators.faults import Fault, FaultKind
from tests.headend.scanning.support import Place, addresses_of, minimum, random_addresses, scan

RATIO_MAX = 1.3
DEFAULT_SETTINGS = tuple(Setting(baud, parity) for parity in PARITIES_FIRST for baud in BAUDS_FIRST)


def test_a_line_with_nothing_on_it_is_empty_in_under_a_minute_per_setting() -> None:
    state = scan(Place(), DEFAULT_SETTINGS)
    assert [report.verdict for report in state.reports] == ["empty"] * 8
    assert max(report.elapsed_s for report in state.reports) < 60
    assert max(report.elapsed_s for report in state.reports) < 12, "measured: 10.6 s at 1200 baud"
    assert state.finished
    assert state.exchanges == 8 * 6


def test_a_silent_tunnel_is_empty_in_under_a_minute() -> None:
    state = scan(Place(url="tcp://nowhere:1"), (Setting(),))
    assert state.reports[0].verdict == "empty"
    assert state.reports[0].elapsed_s < 60


def test_a_single_meter_is_found_by_13h_with_its_evidence() -> None:
    state = scan(Place("000012345678"))
    (found,) = state.found
    assert (found.address, found.dialect, found.contract_hint) == ("000012345678", "2007", "dlt645/base_2007")
    assert (found.baud, found.parity) == (2400, "E")
    assert "13H to AAAAAAAAAAAA answered" in found.evidence
    assert "11H 00010000 to 000012345678 answered" in found.evidence
    assert state.elapsed_s < 20


def test_a_single_1997_meter_is_found_by_9010_to_all() -> None:
    state = scan(Place(old=["000087654321"]))
    (found,) = state.found
    assert (found.address, found.dialect, found.contract_hint) == ("000087654321", "1997", "dlt645/base_1997")
    assert "01H 9010 to 999999999999 answered" in found.evidence


@pytest.mark.parametrize("seed", range(8))
def test_two_meters_are_found(seed: int) -> None:
    place = Place(*random_addresses(2, seed), seed=seed)
    assert addresses_of(scan(place)) == set(place.addresses)


@pytest.mark.parametrize("seed", range(12))
def test_thirty_two_random_meters_are_found_within_the_promised_exchanges(seed: int) -> None:
    place = Place(*random_addresses(32, seed), seed=seed)
    state = scan(place)
    assert addresses_of(state) == set(place.addresses)
    assert state.exchanges <= RATIO_MAX * minimum(place)
    assert state.unconfirmed == []


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("delay_s", [None, 0.02])
def test_two_meters_that_differ_in_one_digit_are_both_found(seed: int, delay_s: float | None) -> None:
    """With the same delay their bytes lie exactly over each other, 0 bits covering 1 bits."""
    (first,) = random_addresses(1, seed)
    place_of_digit = seed % 12
    digit = (int(first[place_of_digit]) + 1 + seed % 9) % 10
    other = f"{first[:place_of_digit]}{digit}{first[place_of_digit + 1 :]}"
    delays = {first: delay_s, other: delay_s} if delay_s is not None else {}
    assert addresses_of(scan(Place(first, other, delays=delays, seed=seed))) == {first, other}


def test_consecutive_serial_numbers_are_found() -> None:
    place = Place(*(f"{202400001180 + number:012}" for number in range(40)))
    state = scan(place)
    assert addresses_of(state) == set(place.addresses)
    assert state.exchanges <= RATIO_MAX * minimum(place)


@pytest.mark.parametrize("seed", range(4))
def test_both_editions_on_one_line_are_told_apart(seed: int) -> None:
    addresses = random_addresses(12, seed)
    place = Place(*addresses[:7], old=addresses[7:], seed=seed)
    state = scan(place)
    assert {found.address: found.dialect for found in state.found} == dict.fromkeys(
        addresses[:7], "2007"
    ) | dict.fromkeys(addresses[7:], "1997")
    assert state.exchanges <= RATIO_MAX * minimum(place)


def test_one_dialect_alone_is_asked_when_told_so() -> None:
    state = scan(Place("000000000001", old=["000000000002"]), dialects=(Dialect.V1997,))
    assert addresses_of(state) == {"000000000002"}


@pytest.mark.parametrize("late_s", [0.9, 1.3, 2.0, 4.0])
def test_a_meter_later_than_the_standard_allows_is_found_and_nobody_is_mistaken_for_it(late_s: float) -> None:
    late, *others = "000000001234", "000000005678", "000000009934"
    assert addresses_of(scan(Place(late, delays={late: late_s}))) == {late}
    state = scan(Place(late, *others, delays={late: late_s}))
    assert addresses_of(state) == {late, *others}
    evidence = next(found.evidence for found in state.found if found.address == late)
    assert evidence == ["11H 00010000 to 000000001234 answered"]


@pytest.mark.parametrize("seed", range(6))
def test_noise_around_replies_and_flipped_bits_lose_nobody(seed: int) -> None:
    place = Place(
        *random_addresses(32, seed),
        seed=seed,
        faults=[
            Fault(kind=FaultKind.NOISE_BEFORE, probability=0.3),
            Fault(kind=FaultKind.NOISE_AFTER, probability=0.1),
            Fault(kind=FaultKind.BIT_FLIP, probability=0.05),
        ],
    )
    state = scan(place)
    assert addresses_of(state) == set(place.addresses)
    assert state.exchanges <= RATIO_MAX * minimum(place)


@pytest.mark.parametrize("seed", range(4))
def test_replies_under_wrong_addresses_never_put_a_meter_on_the_list(seed: int) -> None:
    place = Place(*random_addresses(8, seed), seed=seed, faults=[Fault(kind=FaultKind.WRONG_ADDRESS, probability=0.05)])
    assert addresses_of(scan(place)) == set(place.addresses)


def test_the_right_rate_and_parity_are_found_and_the_rest_is_left() -> None:
    place = Place("000000000001", "000000000002", baud=9600)
    state = scan(place, DEFAULT_SETTINGS)
    assert [(report.baud, report.verdict) for report in state.reports] == [(2400, "empty"), (9600, "found")]
    assert place.opened == [(2400, "E"), (9600, "E")]
    assert {(found.baud, found.parity) for found in state.found} == {(9600, "E")}


def test_all_settings_are_tried_when_told_so() -> None:
    state = scan(Place("000000000001", baud=2400), DEFAULT_SETTINGS[:3], all_settings=True)
    assert [report.verdict for report in state.reports] == ["found", "empty", "empty"]


def test_planned_meters_that_know_no_wildcard_are_asked_by_their_address() -> None:
    place = Place("000000000001", "000000000002", old=["000000000004"], deaf=["000000000002", "000000000004"])
    assert addresses_of(scan(place)) == {"000000000001"}
    planned = tuple(PlannedMeter(f"M{number}", f"{number:012}") for number in (1, 2, 3, 4))
    state = scan(place, planned=planned)
    assert {found.address: found.dialect for found in state.found} == {
        "000000000001": "2007",
        "000000000002": "2007",
        "000000000004": "1997",
    }


def test_progress_counts_up_to_the_end_and_names_each_address_once() -> None:
    steps: list[Step] = []
    state = scan(Place("000000000001", "000000000002"), steps=steps)
    assert [step.newest for step in steps if step.newest] == ["000000000001", "000000000002"]
    exchanges = [step.exchanges for step in steps]
    assert exchanges == sorted(exchanges)
    assert exchanges[-1] <= state.exchanges
    assert all(0 <= step.share <= 1 for step in steps)
    assert all(step.left_s >= 0 for step in steps)


def test_the_estimate_of_the_time_left_is_near_once_the_tree_is_known() -> None:
    steps: list[Step] = []
    state = scan(Place(*random_addresses(32, 5), seed=5), steps=steps)
    middle = steps[len(steps) // 2]
    assert middle.left_s == pytest.approx(state.elapsed_s / 2, rel=0.6)
