"""DTUs that dial in over TLS: certificates of both sides, good and wrong, and handshakes that never end."""

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from headend.clock import SystemClock
from headend.drivers.listener import DialIn
from headend.drivers.listener_settings import BadListener, ListenerSettings, TlsSettings, tls_context
from headend.drivers.transport import LineUrl
from simulators.dlt645_bus import Dlt645Bus
from simulators.dtu import DtuSettings, SimulatedDtu
from simulators.line import SimulatedLine

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
CLOCK = SystemClock()
DTU = "860000000000001"
WAIT_S = 10.0


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem signs head-end.pem and dtu.pem; other-ca.pem signs stranger.pem."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for authority, names in (("ca", ("head-end", "dtu")), ("other-ca", ("stranger",))):
        ca, ca_key = folder / f"{authority}.pem", folder / f"{authority}.key"
        openssl("req", "-x509", *key, "-keyout", ca_key, "-out", ca, "-days", "2", "-subj", f"/CN={authority}")
        for name in names:
            request, private, signed = folder / f"{name}.csr", folder / f"{name}.key", folder / f"{name}.pem"
            openssl("req", *key, "-keyout", private, "-out", request, "-subj", f"/CN={name}")
            extra = folder / f"{name}.ext"
            extra.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
            openssl(
                *("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial"),
                *("-out", signed, "-days", "2", "-extfile", extra),
            )
    return folder


def settings_of(folder: Path, *, client_ca: bool = False, handshakes_max: int = 200) -> ListenerSettings:
    tls = TlsSettings(
        certificate=folder / "head-end.pem",
        key=folder / "head-end.key",
        client_ca=folder / "ca.pem" if client_ca else None,
    )
    return ListenerSettings(tls=tls, handshakes_max=handshakes_max)


@asynccontextmanager
async def dialling(dial_in: DialIn, authority: Path, certificate: Path | None = None) -> AsyncIterator[SimulatedDtu]:
    context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    settings = DtuSettings(
        host="127.0.0.1", port=dial_in.port, registration=DTU.encode(), tls=context, redial_s=(0.05, 0.05)
    )
    dtu = SimulatedDtu(DTU, settings, SimulatedLine(Dlt645Bus([]), CLOCK.now), seed=1)
    task = asyncio.create_task(dtu.run())
    try:
        yield dtu
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def listening(settings: ListenerSettings) -> AsyncIterator[DialIn]:
    dial_in = DialIn("127.0.0.1", 0, settings, clock=CLOCK)
    await dial_in.start()
    try:
        yield dial_in
    finally:
        await dial_in.aclose()


def url(dial_in: DialIn) -> LineUrl:
    return LineUrl.parse(f"listens://127.0.0.1:{dial_in.port}?dtu={DTU}")


async def refused(dial_in: DialIn, dtu: SimulatedDtu) -> str:
    async with asyncio.timeout(WAIT_S):
        while not dial_in.counters.tls_failed or not dtu.problem or dtu.problem == "has not dialled yet":  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    return dtu.problem


async def test_a_dtu_dials_in_over_tls(folder: Path) -> None:
    async with listening(settings_of(folder)) as dial_in, dialling(dial_in, folder / "ca.pem"):
        await asyncio.wait_for(dial_in.connect(url(dial_in), asyncio.Protocol()), WAIT_S)
        assert dial_in.counters.tls_failed == 0


async def test_a_dtu_with_its_own_certificate_is_let_in_where_one_is_asked_for(folder: Path) -> None:
    async with (
        listening(settings_of(folder, client_ca=True)) as dial_in,
        dialling(dial_in, folder / "ca.pem", folder / "dtu.pem"),
    ):
        await asyncio.wait_for(dial_in.connect(url(dial_in), asyncio.Protocol()), WAIT_S)


@pytest.mark.parametrize("certificate", [None, "stranger.pem"])
async def test_a_caller_without_a_certificate_of_our_authority_is_refused(
    folder: Path, certificate: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = None if certificate is None else folder / certificate
    async with listening(settings_of(folder, client_ca=True)) as dial_in:
        async with dialling(dial_in, folder / "ca.pem", shown) as dtu:
            await refused(dial_in, dtu)
        assert dial_in.counters.registered == 0
    said = capsys.readouterr().out
    assert "TLS handshake failed" in said
    assert ("PEER_DID_NOT_RETURN_A_CERTIFICATE" if shown is None else "unable to get local issuer certificate") in said


async def test_a_dtu_refuses_a_head_end_of_another_authority_and_says_so(folder: Path) -> None:
    async with listening(settings_of(folder)) as dial_in, dialling(dial_in, folder / "other-ca.pem") as dtu:
        assert "unable to get local issuer certificate" in await refused(dial_in, dtu)
        assert dial_in.counters.accepted == 0


async def test_a_caller_that_speaks_no_tls_is_refused(folder: Path) -> None:
    async with listening(settings_of(folder)) as dial_in:
        reader, writer = await asyncio.open_connection("127.0.0.1", dial_in.port)
        writer.write(DTU.encode())
        with suppress(ConnectionResetError):
            await asyncio.wait_for(reader.read(), WAIT_S)
        assert dial_in.counters.tls_failed == 1
        writer.close()


async def test_handshakes_that_never_end_do_not_pile_up(folder: Path) -> None:
    async with listening(settings_of(folder, handshakes_max=5)) as dial_in:
        idle = [socket.create_connection(("127.0.0.1", dial_in.port)) for _ in range(12)]
        try:
            async with asyncio.timeout(WAIT_S):
                while dial_in.counters.refused_by_rate < 7:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            assert dial_in._handshakes == 5
        finally:
            for each in idle:
                each.close()
        async with dialling(dial_in, folder / "ca.pem"):
            await asyncio.wait_for(dial_in.connect(url(dial_in), asyncio.Protocol()), WAIT_S)


def test_certificates_that_cannot_be_used_are_refused_with_the_file(folder: Path) -> None:
    with pytest.raises(BadListener, match=r"TLS certificate .*nowhere.pem: No such file"):
        tls_context(TlsSettings(certificate=folder / "nowhere.pem", key=folder / "head-end.key"))
    with pytest.raises(BadListener, match="cannot be used together: KEY_VALUES_MISMATCH"):
        tls_context(TlsSettings(certificate=folder / "head-end.pem", key=folder / "dtu.key"))
    with pytest.raises(BadListener, match=r"client CA .*expected PEM"):
        tls_context(
            TlsSettings(
                certificate=folder / "head-end.pem", key=folder / "head-end.key", client_ca=folder / "head-end.ext"
            )
        )
