"""Real servers for tests, beside `brokers`: NATS with JetStream, and HTTP endpoints.

with nats_server(tmp_path) as server:
    ...                        # nats://127.0.0.1:{server.port}
    server.kill()              # as a crash; what it had acknowledged is on its disk
    server.start()             # same port, same files

with http_endpoint() as endpoint:
    endpoint.answers.append(Answer(status=503, headers={"Retry-After": "5"}))
    ...                        # endpoint.url; endpoint.requests has what came
"""

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import Struct

__all__ = ["Answer", "HttpEndpoint", "NatsServer", "Received", "free_port", "http_endpoint", "nats_server"]

READY_S = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """One nats-server with JetStream, which keeps its streams in `folder`."""

    def __init__(self, folder: Path, port: int, settings: Sequence[str]) -> None:
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self.log = folder / "nats.log"
        self._config = folder / "nats.conf"
        lines = [f"listen: 127.0.0.1:{port}", f'jetstream {{ store_dir: "{folder}" }}', *settings]
        self._config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it is ready. Raises RuntimeError with what it said when it does not come up."""
        program = shutil.which("nats-server")
        if program is None:
            pytest.skip("nats-server is not installed: apt-get install nats-server")
        before = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([program, "-c", str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            said = self.log.read_bytes()[before:]
            if b"Server is ready" in said:
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"nats-server did not come up: {self.log.read_text()[before:]}")

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(timeout=READY_S)


@contextmanager
def nats_server(folder: Path, *, settings: Sequence[str] = ()) -> Iterator[NatsServer]:
    """On a free port of 127.0.0.1, ended with the block. settings: more lines for its configuration."""
    pytest.importorskip("nats", reason="nats-py is not installed: the extra headend[nats]")
    folder = folder / "nats"
    folder.mkdir(parents=True, exist_ok=True)
    server = NatsServer(folder, free_port(), settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Received(Struct, frozen=True):
    """A request as it came; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes


class Answer(Struct, frozen=True):
    """after_s: how long the endpoint thinks."""

    status: int = 200
    headers: dict[str, str] = {}
    body: bytes = b""
    after_s: float = 0.0


class HttpEndpoint:
    """answers: used one after the other; 200 when there are none left."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.requests: list[Received] = []
        self.answers: deque[Answer] = deque()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                endpoint.requests.append(Received(self.path, headers, body))
                answer = endpoint.answers.popleft() if endpoint.answers else Answer()
                if answer.after_s:
                    time.sleep(answer.after_s)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it was tired of waiting
                    self._send(answer)

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self._server.server_address[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/reads"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=READY_S)


@contextmanager
def http_endpoint(*, tls: ssl.SSLContext | None = None) -> Iterator[HttpEndpoint]:
    endpoint = HttpEndpoint(tls)
    try:
        yield endpoint
    finally:
        endpoint.close()
