"""A real MQTT broker for tests: mosquitto on a free port, with its certificates, passwords and persistence.

    with mosquitto(tmp_path) as broker:
        ...                        # mqtt://127.0.0.1:{broker.port}
        broker.kill()              # as a power cut: what it had not saved is gone
        broker.restart()           # same port, same persistence

Everything it says is in `broker.log`; `broker.wait_for("text")` waits until it has said something.
"""

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

__all__ = ["Broker", "Certificates", "make_certificates", "make_password_file", "mosquitto"]

READY_S = 20.0
SAID_MAX = 200_000  # lines kept of its log
LOG_KINDS = ("error", "warning", "notice", "information", "subscribe", "unsubscribe")
BINARIES = "/usr/sbin:/usr/local/sbin:" + os.environ.get("PATH", "")


class Certificates(Struct, frozen=True, kw_only=True):
    """A private CA, a broker certificate for localhost and 127.0.0.1, and a client certificate; all PEM files.

    other_ca: of somebody else, with which nothing here was signed.
    """

    ca: Path
    broker_certificate: Path
    broker_key: Path
    client_certificate: Path
    client_key: Path
    other_ca: Path


class Broker:
    """One mosquitto. url: mqtt:// or mqtts://, as configurations have it."""

    def __init__(self, folder: Path, lines: Sequence[str], port: int, *, tls: bool) -> None:
        self.host = "127.0.0.1"
        self.port = port
        self.url = f"{'mqtts' if tls else 'mqtt'}://{self.host}:{port}"
        self.log: list[str] = []
        self._said = threading.Condition()
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Returns when it listens. Raises RuntimeError with what it said when it does not come up."""
        seen = len(self.log)
        self._process = subprocess.Popen(
            [_program("mosquitto"), "-c", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        try:
            self.wait_for(" running", since=seen)
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(f"mosquitto did not come up: {self.log[seen:]}") from error

    def wait_for(self, text: str, *, since: int = 0, timeout_s: float = READY_S) -> str:
        """The first line from `since` on that contains `text`. Raises TimeoutError, at once when it has ended."""
        deadline = time.monotonic() + timeout_s
        with self._said:
            while True:
                for line in self.log[since:]:
                    if text in line:
                        return line
                left = deadline - time.monotonic()
                if left <= 0 or self._process is None or self._process.poll() is not None:
                    raise TimeoutError(f"the broker never said {text!r}")
                self._said.wait(min(left, 0.2))

    def kill(self) -> None:
        """As a power cut (SIGKILL)."""
        self._end(kill=True)

    def stop(self) -> None:
        """In order (SIGTERM): it saves what it keeps."""
        self._end(kill=False)

    def restart(self) -> None:
        """On the same port, with what it had saved."""
        self._end(kill=True)
        self.start()

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        process.wait(timeout=READY_S)
        if self._reader is not None:
            self._reader.join(timeout=READY_S)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                with self._said:
                    if len(self.log) < SAID_MAX:
                        self.log.append(line.rstrip("\n"))
                    self._said.notify_all()
        with self._said:
            self._said.notify_all()


@contextmanager
def mosquitto(
    folder: Path,
    *,
    tls: Certificates | None = None,
    client_certificates: bool = False,
    persistence: bool = True,
    saves_each_change: bool = False,
    password_file: Path | None = None,
    verbose: bool = False,
    settings: Sequence[str] = (),
) -> Iterator[Broker]:
    """A broker on a free port of 127.0.0.1, ended with the block.

    tls: serve TLS only. client_certificates: and ask for one of the same CA. persistence: sessions, queues and retained
    messages survive `stop` and, as far as they were saved, `kill`; saves_each_change: they are saved all the time.
    password_file: of `make_password_file`; None lets anybody in. verbose: every packet in its log.
    settings: more lines for its configuration.
    """
    folder = folder / "broker"
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    lines = [
        f"listener {port} 127.0.0.1",
        "max_queued_messages 0",  # no limit of its own: tests are to find ours
        "log_dest stderr",
        *(f"log_type {kind}" for kind in (("all",) if verbose else LOG_KINDS)),
        "set_tcp_nodelay true",
    ]
    if os.name == "posix" and os.geteuid() == 0:
        lines.append("user root")  # it would become a user who may not read the test's folder
    if tls is not None:
        lines += [f"cafile {tls.ca}", f"certfile {tls.broker_certificate}", f"keyfile {tls.broker_key}"]
        lines += [f"require_certificate {'true' if client_certificates else 'false'}"]
    if persistence:
        lines += ["persistence true", f"persistence_location {folder}/"]
        lines += ["autosave_on_changes true", "autosave_interval 1"] if saves_each_change else []
    lines += ["allow_anonymous true"] if password_file is None else [f"password_file {password_file}"]
    broker = Broker(folder, [*lines, *settings], port, tls=tls is not None)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def make_password_file(folder: Path, users: Mapping[str, str]) -> Path:
    """For `mosquitto(password_file=…)`: passwords by user name."""
    file = folder / "passwords"
    file.write_text("".join(f"{user}:{password}\n" for user, password in users.items()), encoding="utf-8")
    file.chmod(0o600)
    _run(_program("mosquitto_passwd"), "-U", str(file))
    return file


def make_certificates(folder: Path) -> Certificates:
    """With openssl; takes some hundredths of a second."""
    folder = folder / "certificates"
    folder.mkdir(parents=True, exist_ok=True)
    ca, ca_key = _make_ca(folder, "ca", "headend test CA")
    other_ca, _ = _make_ca(folder, "other-ca", "somebody else's CA")
    broker, broker_key = _sign(folder, "broker", "localhost", ca, ca_key, names="DNS:localhost,IP:127.0.0.1")
    client, client_key = _sign(folder, "client", "client", ca, ca_key, names="DNS:client")
    return Certificates(
        ca=ca,
        broker_certificate=broker,
        broker_key=broker_key,
        client_certificate=client,
        client_key=client_key,
        other_ca=other_ca,
    )


def _make_ca(folder: Path, name: str, subject: str) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    _make_key(key)
    _run(
        *("openssl", "req", "-x509", "-new", "-key", str(key), "-out", str(certificate), "-days", "3650"),
        *("-subj", f"/CN={subject}", "-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    return certificate, key


def _sign(folder: Path, name: str, subject: str, ca: Path, ca_key: Path, *, names: str) -> tuple[Path, Path]:
    certificate, key, request = folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}.csr"
    extensions = folder / f"{name}.ext"
    extensions.write_text(f"subjectAltName={names}\nauthorityKeyIdentifier=keyid\n", encoding="utf-8")
    _make_key(key)
    _run("openssl", "req", "-new", "-key", str(key), "-out", str(request), "-subj", f"/CN={subject}")
    _run(
        *("openssl", "x509", "-req", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial"),
        *("-out", str(certificate), "-days", "3650", "-extfile", str(extensions)),
    )
    return certificate, key


def _make_key(key: Path) -> None:
    _run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")


def _program(name: str) -> str:
    found = shutil.which(name, path=BINARIES)
    if found is None:
        raise RuntimeError(f"{name} is not installed: apt-get install mosquitto mosquitto-clients")
    return found


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
