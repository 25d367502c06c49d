"""Which session and which driver belong to a line's protocol, and how long things take there where nobody has said it."""

from collections.abc import Callable
from functools import partial

from headend.drivers.dlt645 import Dlt645Driver
from headend.drivers.line import Line, LineSession
from headend.drivers.modbus import ModbusDriver
from headend.drivers.reading import Reader
from headend.drivers.transport import LineUrl
from protocols.dlt645.session import Session
from protocols.exchange import Timing
from protocols.modbus.session import ModbusSession

__all__ = ["IN_FLIGHT_MAX", "PROTOCOLS", "TUNNEL_REPLY_TIMEOUT_S", "reader_of", "session_of", "timing_of"]

PROTOCOLS = ("dlt645", "modbus-rtu", "modbus-tcp")
# A tunnel adds its own delay (mobile network, PLC) to the meter's: 3 s covers serial servers, GPRS needs a setting.
TUNNEL_REPLY_TIMEOUT_S = 3.0
IN_FLIGHT_MAX = 16  # Modbus Messaging on TCP/IP Implementation Guide, 4.2.2: what a client should offer at most
MODBUS_REPLY_MAX = 256  # RTU's longest frame
MODBUS_QUIET_S = 0.5  # silence that ends draining: serial servers hand over late replies in bursts


def timing_of(url: LineUrl, protocol: str, *, reply_timeout_s: float | None = None) -> Timing:
    """What holds on a line unless its configuration says otherwise."""
    timeout_s = reply_timeout_s or (Timing().reply_timeout_s if url.scheme == "serial" else TUNNEL_REPLY_TIMEOUT_S)
    if protocol == "dlt645":
        return Timing(baud=url.baud, reply_timeout_s=timeout_s)
    return Timing(
        baud=url.baud,
        reply_timeout_s=timeout_s,
        quiet_s=MODBUS_QUIET_S,
        preamble=0,
        reply_bytes_max=MODBUS_REPLY_MAX,
    )


def session_of(protocol: str, *, in_flight: int = 1) -> Callable[[Timing], LineSession]:
    """in_flight: requests under way at once; for modbus-tcp only, where replies carry a transaction number."""
    if protocol == "modbus-tcp":
        return partial(ModbusSession, framing="tcp", in_flight_max=in_flight)
    if protocol == "modbus-rtu":
        return partial(ModbusSession, framing="rtu")
    return Session


def reader_of(line: Line, protocol: str, *, retries: int) -> Reader:
    return Dlt645Driver(line, retries=retries) if protocol == "dlt645" else ModbusDriver(line, retries=retries)
