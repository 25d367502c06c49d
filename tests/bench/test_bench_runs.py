"""The benchmark itself works: every measurement in a small size. Its figures prove nothing here and are not judged."""

import struct
from decimal import Decimal

from headend.quantities import plan_questions
from tests.bench.audit import measure_audit
from tests.bench.decoding import measure_decoding
from tests.bench.drain import measure_drain
from tests.bench.far_end import far_end
from tests.bench.figures import Figure, Goal, ratio, spread
from tests.bench.ingest import measure_ingest
from tests.bench.late import measure_late
from tests.bench.memory import measure_memory
from tests.bench.modbus import measure_modbus
from tests.bench.prepared import DIS, amount_of, contract, reply_of
from tests.bench.prepared_modbus import ALL, COUNT, START, TYPICAL, answer_of, is_of, meter, question, request_of
from tests.bench.reading import measure_reading
from tests.bench.replay import measure_replay
from tests.bench.settlement import measure_settlement


def assert_positive(figures: list[Figure]) -> None:
    assert all(0 < figure.low <= figure.median <= figure.high for figure in figures if figure.unit), figures


def test_goal_is_judged_by_the_median_and_ratios_by_round() -> None:
    fast, slow = spread("fast", "/s", [30.0, 10.0, 20.0]), spread("slow", "/s", [10.0, 10.0, 5.0])
    assert (fast.median, fast.low, fast.high, fast.met) == (20.0, 10.0, 30.0, None)
    assert ratio("", fast, slow, Goal(least=3.0)).rounds == (3.0, 1.0, 4.0)
    assert ratio("", fast, slow, Goal(least=3.0)).met
    assert not ratio("", fast, slow, Goal(most=2.9)).met


def test_both_decoders_find_the_stated_values_and_are_measured() -> None:
    assert_positive(measure_decoding(rounds=1, seconds=0.01))


def test_far_end_answers_what_was_prepared_and_the_clients_find_it_in_the_end() -> None:
    """Values are checked inside each client: in the store, in the foreign client's items, in the raw bytes."""
    assert_positive(measure_reading(rounds=1, seconds=0.2, lines=2, reads_max_per_s=4000))


def test_modbus_clients_read_what_was_prepared_and_ours_stores_it() -> None:
    """Values are checked inside each client: in the store, and in the registers that came last."""
    assert_positive(measure_modbus(rounds=1, seconds=0.2, in_flight=4, connections=(2,)))


def test_late_replies_are_told_apart_from_right_ones_in_both_clients() -> None:
    figures = {figure.name.split(":")[0] + figure.name.split(":")[-1]: figure for figure in measure_late(reads=40)}
    for name in ("headend", "pymodbus"):
        assert sum(figures[f"{name} {what}"].median for what in ("right", "misattributed", "given up")) == 40
    assert figures["headend misattributed"].median == 0
    assert figures["headend right"].median > 0


def test_prepared_modbus_answers_hold_floats_that_are_the_unit_s_own() -> None:
    assert request_of(7).hex(" ") == "00 00 00 06 07 04 00 0e 00 3c"
    assert plan_questions(meter(), TYPICAL) == (question(TYPICAL),)  # what is measured is what a plan asks for
    assert plan_questions(meter(), ALL) == (question(ALL),)
    answer = answer_of(7, 3)
    assert (answer[:7].hex(" "), len(answer)) == ("00 00 00 7b 07 04 78", 7 + 2 * COUNT)
    for point in (*question(TYPICAL).block.points, *question(ALL).block.points):
        at = 7 + 2 * (point.address - START)
        amount = Decimal(struct.unpack(">f", answer[at : at + 4])[0]) * point.scale
        assert is_of(amount, 7, point)
        assert not is_of(amount, 8, point)


def test_prepared_replies_carry_the_amount_of_their_meter() -> None:
    assert contract().find(DIS[0]).unit.value == "kWh"
    assert str(amount_of(1234, DIS[0])) == "12.34"
    assert reply_of(1234, DIS[0]).hex(" ") == "fe fe fe fe 68 34 12 00 00 00 00 68 91 08 33 33 34 33 67 45 33 33 8e 16"


def test_far_end_ends_with_its_caller_and_counts() -> None:
    with far_end(1) as other:
        assert other.port > 0
    assert (other.answered, other.unknown) == (0, 0)


def test_memory_of_few_meters_is_measured() -> None:
    figures = {figure.unit: figure for figure in measure_memory(rounds=1, meters=3)}
    assert figures["MiB"].low > 10


def test_ingest_is_measured_and_every_read_is_stored() -> None:
    figures = measure_ingest(rounds=1, meters=5, slots=20)
    assert_positive(figures)
    assert [figure.unit for figure in figures] == ["/s", "/s", "/s", "/s", "B", "B"]


def test_every_way_of_replay_gives_every_event() -> None:
    """Checked inside: the same bytes as the file, and as many events."""
    assert_positive(measure_replay(rounds=1, events=12_000))


def test_a_backlog_drains_to_every_kind_of_destination() -> None:
    assert_positive(measure_drain(rounds=1, meters=10, slots=20))


def test_a_log_is_proven_by_both_verifiers() -> None:
    """That each of them finds the whole log good and signed is checked inside."""
    figures = measure_audit(rounds=1, records=1_200)
    assert_positive(figures)
    assert [figure.goal is not None for figure in figures] == [False, *[True] * 4, *[False] * 4]


def test_a_day_of_prepaid_accounts_is_settled_and_the_books_balance() -> None:
    """That every account was charged, and that the books balance, is checked inside."""
    assert_positive(measure_settlement(sizes=(1_000,), note=lambda text: None))
