"""A simulated meter on the bench: asked by messages, without a line."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from firmware_contracts.contract import load
from protocols.dlt645 import messages as m
from protocols.dlt645.frame import Frame
from protocols.dlt645.items import Di, ItemValue, decode
from protocols.values import MeterAddress
from simulators.dlt645_meter import Dlt645Meter
from simulators.load_curve import Kind
from simulators.meter import MeterModel

NOW = datetime(2025, 6, 17, 3, 30, tzinfo=UTC)  # 11:30 on a Tuesday in Shanghai
HOUR = timedelta(hours=1)
ADDRESS = "123456789012"
PASSWORD = m.Password(2, bytes(3))
WRITER = m.Password(4, bytes(3))
OPERATOR = bytes([1, 2, 3, 4])


def meter(
    kind: Kind = Kind.HOUSEHOLD,
    *,
    edition: str = "2007",
    address: str = ADDRESS,
    seed: int = 1,
    contract: str = "",
    **options: object,
) -> Dlt645Meter:
    model = MeterModel(MeterAddress(address), seed=seed, kind=kind, clock_set_at=NOW, drift_ppm=0, clock_offset_s=0)
    return Dlt645Meter(model, load(contract or f"dlt645/base_{edition}"), **options)  # type: ignore[arg-type]


def ask(device: Dlt645Meter, request: m.Message, now: datetime = NOW, address: str = "") -> m.Message | None:
    reply = device.receive(m.encode(request, address or device.address), now)
    if reply is None:
        return None
    assert reply.address == device.address
    return m.decode(Frame.from_bytes(reply.to_bytes()))


def read(device: Dlt645Meter, di: str, now: datetime = NOW) -> list[ItemValue]:
    reply = ask(device, m.ReadRequest(di=Di(di)), now)
    assert isinstance(reply, m.ReadReply), reply
    assert reply.di == Di(di)
    data = reply.data
    sequence = 1
    while reply.follow:
        more = ask(device, m.FollowUpRequest(di=Di(di), sequence=sequence if len(di) == 8 else None), now)
        assert isinstance(more, m.FollowUpReply), more
        data, reply, sequence = data + more.data, m.ReadReply(di=more.di, data=b"", follow=more.follow), sequence + 1
    return decode(data, device.contract.find(Di(di)))


def contents(device: Dlt645Meter, di: str, now: datetime = NOW) -> list[Decimal | str | None]:
    return [value.content for value in read(device, di, now)]


def refusal(reply: m.Message | None) -> int:
    assert isinstance(reply, m.Refused), reply
    return reply.word


def relay(
    order: int, *, expires: str = "991231235959", password: m.Password = PASSWORD, delay: int = 0
) -> m.RelayRequest:
    return m.RelayRequest(password=password, operator=OPERATOR, order=order, delay=delay, expires=expires)
