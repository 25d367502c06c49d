"""A billing system's webhook, as a process that can be killed: it keeps what it has acknowledged.

    python consumer.py PORT DATABASE SECRET

Signature and bodies are taken apart with the standard library alone, as the documentation says it can be done.
"""

import base64
import gzip
import hashlib
import hmac
import json
import sqlite3
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer


class Consumer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    database: sqlite3.Connection
    key: bytes

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
        signature = "v1," + base64.b64encode(hmac.new(self.key, signed, hashlib.sha256).digest()).decode()
        if signature not in self.headers["webhook-signature"].split():
            self.answer(401)
            return
        events = json.loads(body)
        with self.database:
            self.database.executemany(
                "INSERT INTO events VALUES (?, ?, ?, 1, 0) "
                "ON CONFLICT (id) DO UPDATE SET times = times + 1, changed = changed + (body <> excluded.body)",
                [(event["id"], int(event["sequence"]), json.dumps(event)) for event in events],
            )
        self.answer(200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return None


class Server(HTTPServer):
    def handle_error(self, *_: object) -> None:
        """A head-end that dies in the middle of a request is what it is here for."""


def main(port: str, path: str, secret: str) -> None:
    database = sqlite3.connect(path, isolation_level="DEFERRED")
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=OFF")  # killed is not a power cut: what was written is there
    database.execute(
        "CREATE TABLE IF NOT EXISTS events "
        "(id TEXT PRIMARY KEY, sequence INTEGER, body TEXT, times INTEGER, changed INTEGER) WITHOUT ROWID"
    )
    database.commit()
    Consumer.database, Consumer.key = database, base64.b64decode(secret.removeprefix("whsec_"))
    with Server(("127.0.0.1", int(port)), Consumer) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
