"""The policies and calendars that come with the program, and what becomes of files with mistakes."""

import re
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from headend.commands.calendar import Calendar, DayKind
from headend.commands.calendar_file import CALENDARS, read_years
from headend.commands.policy_file import POLICIES, check_policy, load_policy, sign_policy
from headend.commands.policy_words import explain
from headend.errors import ConfigError
from headend.keys import SigningKey

CHINESE = (POLICIES / "cn-residential.toml").read_text(encoding="utf-8")
DAY = timedelta(days=1)


def written(folder: Path, text: str) -> Path:
    path = folder / "policy.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problems_of(folder: Path, text: str) -> list[str]:
    data, problems = check_policy(written(folder, text))
    assert (data is None) == bool(problems)
    return [str(problem) for problem in problems]


@pytest.mark.parametrize("name", [path.stem for path in sorted(POLICIES.glob("*.toml"))])
def test_every_policy_that_comes_with_the_program_is_whole_and_can_be_explained(name: str) -> None:
    policy = load_policy(POLICIES / f"{name}.toml")
    text = explain(policy)
    assert policy.sha256 in text
    assert policy.data.title in text
    for source in policy.data.sources:
        assert source in text
    assert policy.next_allowed(datetime(2026, 11, 22, tzinfo=UTC)) is not None


def test_the_chinese_calendar_knows_the_days_off_and_the_worked_rest_days_of_2025_and_2026() -> None:
    years, problems = read_years(CALENDARS / "cn-state-council.toml")
    assert problems == []
    calendar = Calendar("cn", years)
    days = [date(2025, 1, 1) + number * DAY for number in range(730)]
    kinds = {year: [calendar.kind_of(day) for day in days if day.year == year] for year in (2025, 2026)}
    # The totals of the two notices: 1+8+3+5+3+8, and 3+9+3+5+3+3+7.
    assert kinds[2025].count(DayKind.HOLIDAY) == 28
    assert kinds[2026].count(DayKind.HOLIDAY) == 33
    worked = [day for day in days if calendar.kind_of(day) is DayKind.WORKED]
    assert len(worked) == 11
    assert all(day.weekday() >= 5 for day in worked), "only rest days are worked in exchange"
    assert calendar.kind_of(date(2026, 2, 23)) is DayKind.HOLIDAY
    assert calendar.kind_of(date(2026, 2, 24)) is DayKind.ORDINARY
    assert calendar.kind_of(date(2026, 10, 10)) is DayKind.WORKED


def test_2027_is_not_published_and_so_unknown_from_the_last_days_of_2026_on() -> None:
    years, _ = read_years(CALENDARS / "cn-state-council.toml")
    calendar = Calendar("cn", years)
    assert calendar.kind_of(date(2026, 12, 28)) is DayKind.ORDINARY
    day = date(2026, 12, 29)
    while day < date(2028, 1, 2):
        assert calendar.kind_of(day) is DayKind.UNKNOWN
        day += DAY
    assert calendar.kind_of(date(2025, 12, 31)) is DayKind.ORDINARY, "the next list is there"


def test_a_year_in_a_file_of_ones_own_makes_it_known(tmp_path: Path) -> None:
    (tmp_path / "ours.toml").write_text(
        'name = "ours"\ntitle = "ours"\n[[years]]\nyear = 2027\nsource = "a test"\n'
        'holidays = [{ name = "New Year", first = 2027-01-01, last = 2027-01-03 }]\n',
        encoding="utf-8",
    )
    path = written(tmp_path, CHINESE.replace('["cn-state-council"]', '["cn-state-council", "ours.toml"]'))
    before, after = load_policy(POLICIES / "cn-residential.toml"), load_policy(path)
    late = datetime(2026, 12, 31, 23, tzinfo=UTC)
    assert before.next_allowed(late) is None
    assert after.next_allowed(late) == datetime(2027, 1, 4, 1, tzinfo=UTC)
    assert before.version != after.version


MISTAKES = [
    # what is written, what instead, what is told
    (
        'version = "2026-11-22"',
        'verzion = "1"',
        r"policy\.toml:4 policy\.verzion: unknown key; expected one of id, version, ",
    ),
    ('id = "cn-residential"', 'id = ""', r"policy\.toml:3 policy\.id: "),
    ('"Asia/Shanghai"', '"Asia/Peking"', r"policy\.toml:6 policy\.timezone: 'Asia/Peking' is not a time zone"),
    ('["cn-state-council"]', '["cn"]', r"policy\.calendars\[0\]: 'cn'; expected one of cn-state-council, "),
    ('["cn-state-council"]', '["cn-state-council", "cn-state-council"]', r"tells 2025 again"),
    ('["cn-state-council"]', '["ours.toml"]', r"ours\.toml: cannot be read"),
    (
        '"mon", "tue", "wed", "thu"]',
        '"mon", "tue", "wed"]',
        r"opens\.windows: no window on thu; expected one, or thu under no_opens_on",
    ),
    ('no_opens_on = ["sat", "sun"]', 'no_opens_on = ["sat", "sun", "fri"]', r"no_opens_on: fri has a window"),
    (
        'start = "09:00", end = "11:30" }',
        'start = "09:00", end = "11:30" }, { days = ["mon"], start = "15:59", end = "17:00" }',
        r"opens\.windows\[2\]: mon 15:59 to 17:00 overlaps",
    ),
    ('end = "11:30" }', 'end = "08:00" }', r"opens\.windows\[1\]: 09:00 to 08:00; expected a window within one day"),
    (
        'start = "09:00", end = "16:00"',
        'start = "9:00", end = "16:00"',
        r"opens\.windows\[0\]\.start: '9:00'; expected a time of day",
    ),
    (
        'start = "09:00", end = "16:00"',
        'from = "09:00", end = "16:00"',
        r"opens\.windows\[0\]\.from: unknown key; expected one of days, start, end",
    ),
    (
        'start = "11:30", end = "13:30"',
        'start = "08:30", end = "13:30"',
        r"opens\.quiet: the window on fri lies wholly in quiet hours",
    ),
    ('start = "11:30", end = "13:30"', 'start = "17:30", end = "18:30"', r"opens\.quiet\[1\]: 18:00 to 08:00 overlaps"),
    ('worked_as = "mon"', 'worked_as = "sun"', r"opens\.worked_as: 'sun' is a day without opens"),
    ("eves_of_holidays = 1", "", r"opens\.eves_of_holidays: missing"),
    ('currency = "CNY"', 'currency = "yuan"', r"debt\.currency: "),
    ("minimum_minor = 1000", "minimum_minor = 10.5", r"debt\.minimum_minor: expected a valid integer, got 10\.5"),
    ("grace_minor = 3000", "grace_minor = -1", r"debt\.grace_minor: "),
    ('proof_age_max = "10m"', 'proof_age_max = "10"', r"debt\.proof_age_max: '10'; expected seconds, minutes"),
    (
        'step = "second", before = "24h", after_previous = "24h"',
        'step = "second", before = "24h"',
        r"notices\.steps\[1\]: 'second' does not say after_previous",
    ),
    ('step = "second"', 'step = "first"', r"notices\.steps\[1\]: 'first' is there already"),
    (
        'step = "first", before = "7d", age_max = "60d"',
        'step = "first", before = "7d", age_max = "6d"',
        r"notices\.steps\[0\]: before 7d is longer ago than age_max 6d",
    ),
    ("at_or_below = -10", "at_or_below = 40", r"weather\.at_or_above: 37 is not above"),
    ("at_or_below = -10\nat_or_above = 37", "", r"weather: no limit"),
    ('until = "never"', "", r"protected\[0\]\.until: missing"),
    ('until = "never"', 'until = ""', r"protected\[0\]\.until"),
    (
        'customer_class = "public"',
        'customer_class = "medical"',
        r"protected\[1\]\.customer_class: 'medical' is protected already",
    ),
    (
        "without_weather = true",
        'without_weather = true\nweather = { forecast_hours = 1, age_max = "1h", unit = "C", at_or_below = 1 }',
        r"groups\[0\]\.without_weather: there is a table weather too",
    ),
    (
        'tariff_groups = ["commercial"]',
        'tariff_groups = ["commercial", "commercial"]',
        r"groups\[0\]\.tariff_groups: 'commercial' has rules already",
    ),
    ('spread = "600s"', 'spread = "601s"', r"reconnect\.spread: 601s; expected at most 600s"),
    ('title = "Mainland China', 'margin = "2m"\ntitle = "Mainland China', r"policy\.margin: 2m; expected at most 30s"),
    ("[debt]", "[dept]", r"dept: unknown key; expected one of policy, opens, debt"),
    ("[opens]", "[opens", r"policy\.toml: is not TOML"),
]


@pytest.mark.parametrize(("old", "new", "told"), MISTAKES)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in CHINESE
    problems = problems_of(tmp_path, CHINESE.replace(old, new, 1))
    assert any(re.search(told, problem) for problem in problems), problems


def test_all_mistakes_are_told_in_one_run(tmp_path: Path) -> None:
    text = CHINESE.replace('spread = "600s"', 'spread = "700s"').replace("at_or_below = -10", "at_or_below = 50")
    text = text.replace('["cn-state-council"]', '["nowhere"]').replace('"mon", "tue", ', '"mon", ')
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as raised:
        load_policy(path)
    for place in ("policy.calendars[0]", "opens.windows", "weather.at_or_above", "reconnect.spread"):
        assert place in str(raised.value)


def test_no_file_and_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(tmp_path / "nowhere.toml")
    (tmp_path / "policy.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_policy(tmp_path / "policy.toml")
    (tmp_path / "policy.toml").write_text("# " + "x" * 1_000_001, encoding="ascii")
    with pytest.raises(ConfigError, match="bytes; expected at most"):
        load_policy(tmp_path / "policy.toml")
    assert problems_of(tmp_path, "")[0] == "policy.toml policy: missing"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("worked = [2027-01-02]", "is a holiday, 'A', and worked"),
        ("worked = [2027-05-08, 2027-05-08]", "is there twice"),
        ("worked = [2030-05-08]", "does not belong to the list of 2027"),
        ("worked = [2027-05-08T00:00:00Z]", "worked"),
    ],
)
def test_mistakes_of_a_calendar_make_its_year_unknown(tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "ours.toml"
    text = 'name = "o"\ntitle = "o"\n[[years]]\nyear = 2027\nsource = "s"\n'
    holidays = 'holidays = [{ name = "A", first = 2027-01-01, last = 2027-01-03 }]\n'
    path.write_text(text + holidays + line + "\n", encoding="utf-8")
    years, problems = read_years(path)
    assert years == []
    assert told in str(problems[0])
    path.write_text(
        text + holidays.replace("2027-01-03 }", '2027-01-03 }, { name = "B", first = 2027-01-03, last = 2027-01-04 }'),
        encoding="utf-8",
    )
    assert "is in 'A' and in 'B'" in str(read_years(path)[1][0])
    path.write_text(text + holidays, encoding="utf-8")
    assert len(read_years(path)[0]) == 1


def test_a_signed_policy_is_the_signed_one_with_its_calendars(tmp_path: Path) -> None:
    key, other = SigningKey.new(), SigningKey.new()
    path = written(tmp_path, CHINESE)
    with pytest.raises(ConfigError, match="has no signature"):
        load_policy(path, key=key.public)
    data, _ = check_policy(path)
    assert data is not None
    signature = path.with_name("policy.toml.sig")
    signature.write_text(sign_policy(data, key) + "\n", encoding="ascii")
    assert load_policy(path, key=key.public).signed_by == key.public.id
    assert load_policy(path).signed_by == ""
    with pytest.raises(ConfigError, match="is not the signature"):
        load_policy(path, key=other.public)
    written(tmp_path, CHINESE + "\n# a remark changes nothing\n")
    assert load_policy(path, key=key.public).signed_by
    written(tmp_path, CHINESE.replace("minimum_minor = 1000", "minimum_minor = 999"))
    with pytest.raises(ConfigError, match="sign it again"):
        load_policy(path, key=key.public)


def test_the_explanation_says_what_is_missing(tmp_path: Path) -> None:
    text = re.sub(r"\[notices\].*?\]\n\n", "[notices]\nsteps = []\n\n", CHINESE, count=1, flags=re.DOTALL)
    text = re.sub(r"\[weather\].*?\n\n", "", text, flags=re.DOTALL)
    told = explain(load_policy(written(tmp_path, text)))
    assert "WITHOUT ANY NOTICE" in told
    assert "IN ANY WEATHER" in told
