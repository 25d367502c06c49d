"""Parameters of commands: checked where they are sent and where they arrive, whatever the family.

open, permit-close, close: none. read: {"quantities": ["1-0:1.8.0", …]}; without it, all that the concentrator has.
set_clock: {"ts": milliseconds since 1970}. forward: {"frame": hex, "timeout_ms": 100..60000, "baud": 300..115200};
only the frame must be there. Keys that are not listed here are passed on.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from protocols.concentrator.json_text import Mismatch
from protocols.concentrator.messages import Op
from protocols.concentrator.topics import identity

__all__ = ["FRAME_BYTES_MAX", "check_params"]

FRAME_BYTES_MAX = 1024  # the longest frames of DL/T 645, Modbus and DL/T 698 fit in a quarter to one of it
QUANTITIES_MAX = 2000
EARLIEST_MS = 946_684_800_000  # 2000
LATEST_MS = 4_102_444_800_000  # 2100
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


def check_params(op: Op, params: Any) -> None:
    """Raises Mismatch."""
    if not isinstance(params, dict):
        raise Mismatch("an object of parameters", params)
    check = _CHECKS.get(op)
    try:
        if check is not None:
            check(params)
    except Mismatch as error:
        raise error.under("params") from None


def _read(params: Mapping[str, Any]) -> None:
    quantities = params.get("quantities", [])
    if not isinstance(quantities, list | tuple) or len(quantities) > QUANTITIES_MAX:
        raise Mismatch(f"a list of at most {QUANTITIES_MAX} quantities", quantities).under("quantities")
    for quantity in quantities:
        identity(quantity)


def _set_clock(params: Mapping[str, Any]) -> None:
    _whole(params, "ts", EARLIEST_MS, LATEST_MS, needed=True)


def _forward(params: Mapping[str, Any]) -> None:
    frame = params.get("frame")
    if not isinstance(frame, str) or len(frame) > 2 * FRAME_BYTES_MAX or not _HEX.fullmatch(frame):
        raise Mismatch(f"1 to {FRAME_BYTES_MAX} bytes in hex", frame).under("frame")
    _whole(params, "timeout_ms", 100, 60_000)
    _whole(params, "baud", 300, 115_200)


def _whole(params: Mapping[str, Any], key: str, lowest: int, highest: int, *, needed: bool = False) -> None:
    if key not in params and not needed:
        return
    value = params.get(key)
    if type(value) is not int or not lowest <= value <= highest:
        raise Mismatch(f"a whole number from {lowest} to {highest}", value).under(key)


_CHECKS: dict[Op, Callable[[Mapping[str, Any]], None]] = {
    Op.READ: _read,
    Op.SET_CLOCK: _set_clock,
    Op.FORWARD: _forward,
}
