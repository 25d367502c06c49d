"""LINE URLs, and what the system is told about connections whose far end may be gone."""

import asyncio
import socket

import pytest

from headend.drivers.errors import BadLineUrl, LineDown
from headend.drivers.transport import DEAD_PEER_S, LineUrl, connect, notice_a_dead_peer


def test_a_listening_line_has_a_place_and_the_id_of_its_dtu() -> None:
    line = LineUrl.parse("listen://0.0.0.0:9001?dtu=860000000000001&baud=2400")
    assert (line.scheme, line.host, line.port, line.dtu, line.baud) == (
        "listen",
        "0.0.0.0",
        9001,
        "860000000000001",
        2400,
    )
    assert not line.is_tls
    assert line.awaited == "waiting for DTU 860000000000001 to dial in on 0.0.0.0:9001"
    secure = LineUrl.parse("listens://[::]:9002")
    assert (secure.scheme, secure.host, secure.port, secure.dtu, secure.is_tls) == ("listen", "::", 9002, "", True)
    assert secure.awaited == "waiting for a DTU to dial in on [::]:9002"
    assert LineUrl.parse("listen://0.0.0.0:1?dtu=LOGIN%3A1%2B2").dtu == "LOGIN:1+2"


def test_a_line_that_connects_out_waits_for_nobody() -> None:
    assert LineUrl.parse("tcp://192.168.1.20:9001").awaited == ""
    assert LineUrl.parse("serial:///dev/ttyUSB0").awaited == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listen://:9001", "expected listen://HOST:PORT"),
        ("listen://0.0.0.0", "expected listen://HOST:PORT"),
        ("listen://0.0.0.0:0", "expected listen://HOST:PORT"),
        ("listen://0.0.0.0:70000", "expected listen://HOST:PORT"),
        ("listen://0.0.0.0:9001?id=7", "unknown option 'id'; expected dtu, baud"),
        ("listen://0.0.0.0:9001?dtu=", "expected the id of its registration packet"),
        ("listen://0.0.0.0:9001?dtu=%20a", "expected the id of its registration packet"),
        ("listen://0.0.0.0:9001?dtu=a%0Ab", "expected the id of its registration packet"),
        (f"listen://0.0.0.0:9001?dtu={'7' * 65}", "1 to 64 characters"),
        ("listen://0.0.0.0:9001?baud=2401", "baud=2401, expected one of"),
        ("tcp://far.end:1?dtu=7", "unknown option 'dtu'"),
        ("listening://0.0.0.0:9001", "or listen://0.0.0.0:9001"),
    ],
)
def test_a_bad_line_is_refused_with_what_was_expected(text: str, problem: str) -> None:
    with pytest.raises(BadLineUrl) as caught:
        LineUrl.parse(text)
    assert problem in str(caught.value)


async def test_a_listening_line_is_not_connected_without_a_listener() -> None:
    with pytest.raises(LineDown, match="nobody listens for DTUs here"):
        await connect(LineUrl.parse("listen://127.0.0.1:9001"), asyncio.Protocol())


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system rules this by other means")
@pytest.mark.parametrize("within_s", [12.0, DEAD_PEER_S, 60.0])
def test_the_probes_of_an_idle_connection_and_a_request_sent_meanwhile_end_in_time_together(within_s: float) -> None:
    with socket.socket() as connection:
        notice_a_dead_peer(connection, within_s)

        def option(name: str) -> int:
            return connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))

        idle_s, step_s, unacknowledged_s = (
            option("TCP_KEEPIDLE"),
            option("TCP_KEEPINTVL"),
            option("TCP_USER_TIMEOUT") / 1000,
        )
        # Linux gives an idle connection up at the first probe time at which it has been silent for the user time-out.
        probes = -(-(unacknowledged_s - idle_s) // step_s)
        assert probes >= 2, "one lost probe must not end a connection"
        assert idle_s + probes * step_s + unacknowledged_s <= within_s
