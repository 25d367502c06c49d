"""PyPI `dlt645`'s server as a process of its own: `python -m tests.interop.peer_server tcp PORT | rtu DEVICE`. Prints "ready"."""

import sys
import threading

from dlt645 import MeterServerService

# The foreign package writes addresses in wire order.
ADDRESS, ADDRESS_AS_IT_WRITES_IT = "000000123456", "563412000000"
ENERGIES = {0x00000000: 50.5, 0x00010000: 1234.56, 0x00010100: 300.25, 0x00010200: 400.5, 0x00020000: 7.75}
VARIABLES = {
    0x02010100: 230.1,
    0x02010200: 229.5,
    0x02020100: 5.125,
    0x02030000: 1.25,
    0x02060000: 0.875,
    0x02800002: 50.02,
}


def main(kind: str, place: str) -> None:
    if kind == "tcp":
        service = MeterServerService.new_tcp_server("127.0.0.1", int(place), 3000)
    else:
        service = MeterServerService.new_rtu_server(
            place, data_bits=8, stop_bits=1, baud_rate=9600, parity="E", timeout=1
        )
    service.set_address(ADDRESS_AS_IT_WRITES_IT)
    for di, value in ENERGIES.items():
        assert service.set_00(di, value)
    for di, value in VARIABLES.items():
        assert service.set_02(di, value)
    assert service.server.start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
