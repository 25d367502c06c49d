"""Lines that are dialled in to, `[[listeners]]`, and what belongs to a line's protocol: all of it through `load_config`."""

from pathlib import Path

import pytest

from headend.config import Config, load_config
from tests.brokers import make_certificates
from tests.headend.test_config import loaded, problems

PLAN = '[[plans]]\nname = "plan"\nperiod = "15m"\nquantities = ["1-0:1.8.0"]\n'
PORT = "listen://0.0.0.0:9001"


def a_line(name: str, url: str, more: str = "") -> str:
    return f'[[lines]]\nname = "{name}"\nurl = "{url}"\n{more}\n'


def a_listener(more: str = "", url: str = PORT) -> str:
    return f'[[listeners]]\nurl = "{url}"\n{more}\n'


def with_listener(folder: Path, more: str) -> Config:
    return loaded(folder, a_line("l1", f"{PORT}?dtu=86000001") + a_listener(more))


def test_a_port_without_an_entry_has_the_defaults(tmp_path: Path) -> None:
    config = loaded(tmp_path, a_line("l1", f"{PORT}?dtu=86000001") + a_line("l2", f"{PORT}?dtu=86000002"))
    assert (config.problems, config.listeners) == ((), {})
    assert [line.url.dtu for line in config.lines] == ["86000001", "86000002"]


def test_everything_that_can_be_said_of_a_port(tmp_path: Path) -> None:
    config = with_listener(
        tmp_path,
        r"""
registration = 'LOGIN:(?P<id>\d+)\r\n'
heartbeat = ""
registration_reply = "hex: 06 0D"
heartbeat_reply = "pong"
repeats_are_heartbeats = false
register_within_s = 5
heartbeat_timeout_s = 180
dead_peer_s = 120
allow = ["10.20.0.0/16", "192.0.2.7"]
callers_max = 50
unknown_max = 20
connects_per_s = 10
connects_per_s_and_peer = 2.5
""",
    )
    assert config.problems == ()
    settings = config.listeners["0.0.0.0", 9001]
    assert settings.registration.group(b"LOGIN:1001\r\n", "id") == b"1001"
    assert settings.heartbeat is None
    assert (settings.registration_reply, settings.heartbeat_reply) == (b"\x06\x0d", b"pong")
    assert not settings.repeats_are_heartbeats
    assert (settings.register_within_s, settings.heartbeat_timeout_s, settings.dead_peer_s) == (5, 180, 120)
    assert [str(network) for network in settings.allow] == ["10.20.0.0/16", "192.0.2.7/32"]
    assert (settings.callers_max, settings.unknown_max) == (50, 20)
    assert (settings.connects_per_s_max, settings.peer_connects_per_s_max) == (10, 2.5)


@pytest.mark.parametrize(
    ("more", "place", "says"),
    [
        ('registration = "(?P<id>[0-9]{15}"', "listeners[0]", "no regular expression"),
        ('registration = "[0-9]{15}"', "listeners[0]", "has no group 'id'"),
        ('registration = "(?P<id>a*)"', "listeners[0]", "matches nothing at all"),
        ('heartbeat = "(?=ping)ping"', "listeners[0]", "cannot be followed on a stream"),
        ('heartbeat = "心跳"', "listeners[0]", "expected ASCII"),
        ("heartbeat = 5", "listeners[0].heartbeat", "expected a valid string, got 5"),
        ('registration_reply = "hex:0"', "listeners[0]", "expected pairs of hex digits"),
        (f'heartbeat_reply = "{"x" * 257}"', "listeners[0]", "257 bytes long, expected at most 256"),
        ("repeats_are_heartbeats = 1", "listeners[0].repeats_are_heartbeats", "expected a valid boolean, got 1"),
        ("register_within_s = 0", "listeners[0].register_within_s", "greater than 0"),
        ("register_within_s = 301", "listeners[0].register_within_s", "less than or equal to 300"),
        ("heartbeat_timeout_s = -1", "listeners[0].heartbeat_timeout_s", "greater than or equal to 0"),
        ("dead_peer_s = 11", "listeners[0].dead_peer_s", "greater than or equal to 12"),
        ('allow = ["10.0.0.1/8"]', "listeners[0]", "has host bits set; expected a network such as 10.20.0.0/16"),
        ('allow = "10.0.0.0/8"', "listeners[0].allow", "expected a valid list"),
        ('key = "dtu.key"', "listeners[0]", "certificate: missing"),
        ('client_ca = "ca.pem"', "listeners[0]", "certificate: missing"),
        ('certificate = "no.pem"\nkey = "no.key"', "listeners[0]", "no.pem: No such file"),
        ("callers_max = 0", "listeners[0].callers_max", "greater than or equal to 1"),
        ("unknown_max = 100001", "listeners[0].unknown_max", "less than or equal to 100000"),
        ("connects_per_s = 0", "listeners[0].connects_per_s", "greater than 0"),
        ("connects_per_s_and_peer = nan", "listeners[0].connects_per_s_and_peer", "nan"),
        ("connects_per_s_max = 5", "listeners[0].connects_per_s_max", "unknown key; expected one of url,"),
    ],
)
def test_a_mistake_at_a_port_lets_nobody_in_there(tmp_path: Path, more: str, place: str, says: str) -> None:
    """By weaker rules than were asked for: an allow list with a misprint must not become none."""
    config = with_listener(tmp_path, more)
    mistake, line = map(str, config.problems)
    assert place in mistake
    assert says in mistake
    assert "lines[0].url" in line
    assert "its [[listeners]] entry has a mistake; the line is left out" in line
    assert (config.lines, config.listeners) == ((), {})


@pytest.mark.parametrize(
    "url", [f"{PORT}?dtu=86000001", f"{PORT}?baud=2400", "tcp://0.0.0.0:9001"], ids=["dtu", "baud", "tcp"]
)
def test_a_port_that_is_named_wrongly_lets_nobody_in_either(tmp_path: Path, url: str) -> None:
    config = loaded(tmp_path, a_line("l1", f"{PORT}?dtu=86000001") + a_listener('allow = ["10.0.0.0/8"]', url))
    assert (config.lines, config.listeners) == ((), {})
    assert "expected listen://HOST:PORT or listens://HOST:PORT and nothing behind it" in str(config.problems[0])
    assert len(config.problems) == 2


@pytest.mark.parametrize("url", ["listen://0.0.0.0", "listen://0.0.0.0:0", "udp://0.0.0.0:9001", "", "listen://[::1"])
def test_what_names_no_port_at_all_is_said_once(tmp_path: Path, url: str) -> None:
    [problem] = problems(tmp_path, a_listener(url=url))
    assert "listeners[0].url" in problem
    assert "expected" in problem


def test_an_entry_that_nobody_waits_at_and_a_second_one_are_told(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        a_line("l1", f"{PORT}?dtu=86000001")
        + a_listener("callers_max = 5")
        + a_listener("callers_max = 6")
        + a_listener(url="listen://0.0.0.0:9002"),
    )
    assert [str(problem).partition(": ")[2] for problem in config.problems] == [
        "'listen://0.0.0.0:9001' stands twice; the first is used",
        "no line waits at 'listen://0.0.0.0:9002'; expected one whose url begins with it",
    ]
    assert config.listeners["0.0.0.0", 9001].callers_max == 5


def test_lines_that_share_a_port_need_the_ids_of_their_dtus(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        a_line("any", PORT)
        + a_line("one", f"{PORT}?dtu=86000001")
        + a_line("alone", "listen://0.0.0.0:9002")
        + a_line("twin-1", "listen://0.0.0.0:9003?dtu=86000001")
        + a_line("twin-2", "listen://0.0.0.0:9003?dtu=86000001&baud=2400"),
    )
    assert [line.name for line in config.lines] == ["alone"]
    told = "\n".join(map(str, config.problems))
    assert told.count("several lines wait at this port: each needs the id of its DTU, ?dtu=…") == 2
    assert "'listen://0.0.0.0:9003?dtu=86000001' goes where 2 lines go; a line has one owner" in told


def test_tls_needs_a_certificate_and_holds_for_all_lines_of_a_port(tmp_path: Path) -> None:
    certificates = make_certificates(tmp_path)
    tls = f'certificate = "certificates/{certificates.broker_certificate.name}"\nkey = "{certificates.broker_key}"\n'
    good = loaded(
        tmp_path,
        a_line("l1", "listens://0.0.0.0:9001?dtu=86000001")
        + a_listener(tls + f'client_ca = "{certificates.ca}"', "listens://0.0.0.0:9001"),
    )
    assert good.problems == ()
    settings = good.listeners["0.0.0.0", 9001]
    assert settings.tls is not None
    assert settings.tls.client_ca == certificates.ca
    assert [line.url.is_tls for line in good.lines] == [True]

    for lines, listener in (
        (a_line("l1", "listens://0.0.0.0:9001?dtu=86000001"), ""),
        (a_line("l1", "listens://0.0.0.0:9001?dtu=86000001"), a_listener()),
        (a_line("l1", f"{PORT}?dtu=86000001"), a_listener(tls)),
    ):
        config = loaded(tmp_path, lines + listener)
        assert config.lines == ()
        assert "lines[0].url" in str(config.problems[0])
        assert "listens:// needs a [[listeners]] entry with certificate and key" in str(config.problems[0])
    mixed = loaded(
        tmp_path,
        a_line("l1", "listens://0.0.0.0:9001?dtu=86000001")
        + a_line("l2", f"{PORT}?dtu=86000002")
        + a_listener(tls, "listens://0.0.0.0:9001"),
    )
    assert mixed.lines == ()
    assert "one port has TLS or not, the same for all its lines" in "\n".join(map(str, mixed.problems))
    [problem, _] = problems(
        tmp_path, a_line("l1", "listens://0.0.0.0:9001?dtu=86000001") + a_listener(url="listens://0.0.0.0:9001")
    )
    assert "listens:// needs certificate and key" in problem
    wrong_key = f'certificate = "{certificates.broker_certificate}"\nkey = "{certificates.client_key}"'
    [problem, _] = problems(
        tmp_path,
        a_line("l1", "listens://0.0.0.0:9001?dtu=86000001") + a_listener(wrong_key, "listens://0.0.0.0:9001"),
    )
    assert "cannot be used together" in problem


@pytest.mark.parametrize("dtu", ["", "%20", "x" * 65, "a%00b"])
def test_the_id_of_a_dtu_is_checked(tmp_path: Path, dtu: str) -> None:
    [problem] = problems(tmp_path, a_line("l1", f"{PORT}?dtu={dtu}"))
    assert "expected the id of its registration packet, 1 to 64 characters" in problem


# ------------------------------------------------------------------------------------------------ protocols


@pytest.mark.parametrize(
    ("line", "place", "says", "is_kept"),
    [
        ('protocol = "modbus"', "protocol", "expected 'dlt645', 'modbus-rtu' or 'modbus-tcp', got 'modbus'", False),
        ('protocol = "modbus-rtu"\nin_flight = 4', "in_flight", "only modbus-tcp can have more than one", True),
        ("in_flight = 2", "in_flight", "only modbus-tcp can have more than one", True),
        ('protocol = "modbus-tcp"\nin_flight = 0', "in_flight", "greater than or equal to 1", False),
        ('protocol = "modbus-tcp"\nin_flight = 17', "in_flight", "less than or equal to 16", False),
        ('protocol = "modbus-tcp"\nin_flight = 2.5', "in_flight", "expected a valid integer", False),
    ],
)
def test_what_a_protocol_cannot_have_is_told(tmp_path: Path, line: str, place: str, says: str, is_kept: bool) -> None:
    config = loaded(tmp_path, a_line("l1", "tcp://192.0.2.1:502", line))
    [problem] = map(str, config.problems)
    assert f"lines[0].{place}: " in problem
    assert says in problem
    assert [one.in_flight for one in config.lines] == ([1] if is_kept else [])


def test_modbus_tcp_has_no_form_for_a_serial_port(tmp_path: Path) -> None:
    config = loaded(tmp_path, a_line("l1", "serial:///dev/ttyUSB0?baud=9600", 'protocol = "modbus-tcp"'))
    assert config.lines == ()
    assert "lines[0].protocol: 'modbus-tcp' has no form for a serial port; expected modbus-rtu" in str(
        config.problems[0]
    )


def test_each_protocol_has_its_timing(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        a_line("rtu", "serial:///dev/ttyUSB0?baud=9600&parity=N", 'protocol = "modbus-rtu"')
        + a_line("tcp", "tcp://192.0.2.1:502", 'protocol = "modbus-tcp"\nin_flight = 16\nreply_timeout_s = 2')
        + a_line("dtu", f"{PORT}?dtu=86000001&baud=2400", 'protocol = "modbus-rtu"\npreamble = 3'),
    )
    assert config.problems == ()
    rtu, tcp, dtu = config.lines
    assert (rtu.timing.preamble, rtu.timing.baud, rtu.timing.reply_timeout_s) == (0, 9600, 1.0)
    assert (tcp.in_flight, tcp.timing.reply_timeout_s) == (16, 2.0)
    assert (dtu.timing.baud, dtu.timing.reply_timeout_s, dtu.timing.preamble) == (2400, 3.0, 0)


METERS = [
    ("dlt645", "000000000001", "dlt645/base_2007", None),
    ("dlt645", "1", "dlt645/base_2007", "address: '1' is not a meter address: expected the 12 digits"),
    (
        "dlt645",
        "000000000001",
        "modbus/eastron_sdm630",
        "contract: 'modbus/eastron_sdm630' speaks modbus, line 'l1' dlt645",
    ),
    ("modbus-rtu", "247", "modbus/eastron_sdm630", None),
    ("modbus-tcp", "1", "modbus/eastron_sdm630", None),
    ("modbus-tcp", "1", "dlt645/base_2007", "expected a contract of modbus/…"),
    ("modbus-rtu", "1", "concentrator/hes_v1", "describes a concentrator; expected a meter's contract"),
    ("modbus-rtu", "1", "modbus/nobody", "no contract 'modbus/nobody'"),
    (
        "modbus-rtu",
        "0",
        "modbus/eastron_sdm630",
        "address: '0' is not a meter address: expected a Modbus unit, 1 to 247",
    ),
    ("modbus-rtu", "248", "modbus/eastron_sdm630", "expected a Modbus unit"),
    ("modbus-rtu", "01", "modbus/eastron_sdm630", "expected a Modbus unit"),
    ("modbus-rtu", "٣", "modbus/eastron_sdm630", "expected a Modbus unit"),
    ("modbus-rtu", "000000000001", "modbus/eastron_sdm630", "expected a Modbus unit"),
]


@pytest.mark.parametrize(("protocol", "address", "contract", "says"), METERS)
def test_a_meter_speaks_what_its_line_speaks(
    tmp_path: Path, protocol: str, address: str, contract: str, says: str | None
) -> None:
    text = (
        PLAN
        + a_line("l1", "tcp://192.0.2.1:502", f'protocol = "{protocol}"')
        + f'[[meters]]\nid = "M1"\nline = "l1"\naddress = "{address}"\ncontract = "{contract}"\nplan = "plan"\n'
    )
    config = loaded(tmp_path, text)
    if says is None:
        assert (config.problems, [meter.protocol for meter in config.meters]) == ((), [protocol])
    else:
        assert config.meters == ()
        assert any("meters[0]" in str(problem) and says in str(problem) for problem in config.problems), config.problems


@pytest.mark.parametrize(
    ("quantity", "says"),
    [
        ("1-0:1.8.0", None),
        ("reg:4:0x0048:float32", None),
        ("reg:4:0x0048:float32:little", None),
        ("di:00010000", "this meter speaks Modbus"),
        ("reg:4:0x0048", "reg:"),
        ("reg:5:0x0048:float32", "function"),
        ("reg:4:0x10000:float32", "names no r"),
        ("1-0:99.99.99", "1-0:99.99.99"),
    ],
)
def test_a_plan_s_quantities_are_those_of_its_meters_contract(tmp_path: Path, quantity: str, says: str | None) -> None:
    told = problems(
        tmp_path,
        PLAN.replace("1-0:1.8.0", quantity)
        + a_line("l1", "tcp://192.0.2.1:502", 'protocol = "modbus-tcp"')
        + '[[meters]]\nid = "M1"\nline = "l1"\naddress = "1"\ncontract = "modbus/eastron_sdm630"\nplan = "plan"\n',
    )
    if says is None:
        assert told == []
    else:
        assert "plans[0].quantities" in told[0]
        assert says in told[0]


def test_numbers_that_no_computer_holds_are_no_traceback(tmp_path: Path) -> None:
    [problem] = problems(tmp_path, f"[[lines]]\nin_flight = {'9' * 5000}\n")
    assert "not TOML" in problem
    [problem] = problems(tmp_path, "x = " + "[" * 100_000)
    assert "not TOML" in problem


def test_the_configuration_of_the_pages_is_good(tmp_path: Path) -> None:
    """The examples of docs/modbus.md, with the plan that they name."""
    page = Path(__file__).parents[3] / "docs" / "modbus.md"
    blocks = [block.partition("```")[0] for block in page.read_text(encoding="utf-8").split("```toml\n")[1:]]
    path = tmp_path / "headend.toml"
    path.write_text(PLAN.replace('"plan"', '"commercial"') + "\n".join(blocks), encoding="utf-8")
    config = load_config(path)
    assert config.problems == ()
    assert (len(config.lines), len(config.meters), len(config.ratios)) == (2, 1, 1)
