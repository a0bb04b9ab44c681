"""A Google Cloud Storage emulator on loopback that can be told to fail, for tests of buckets."""

import contextlib
import http.client
import http.server
import os
import random
import re
import threading
import time
import urllib.parse

from gcp_storage_emulator.server import create_server
from helpers.whole_run import free_port

BUCKET = "bucket"


class Server:
    """The emulator, behind a proxy that injects faults.

    Attributes:
        environment: variables with which programs use the emulator instead of the service.
        url: of the proxy.
        failures: share of the requests that are answered with 503, 0 to 1.
        stalls: number of next requests that are answered only after `stall_seconds`.
        requests: number of requests so far.
    """

    def __init__(self):
        port, behind = free_port(), free_port()
        self._emulator = create_server("127.0.0.1", behind, in_memory=True, default_bucket=BUCKET)
        self._emulator.start()
        self.failures, self.stalls, self.stall_seconds, self.requests = 0.0, 0, 0.0, 0
        self._random = random.Random(0)
        self._created, self._creating = set(), threading.Lock()  # names of objects written on condition
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {"STORAGE_EMULATOR_HOST": self.url}
        server, behind_port = self, behind

        class Proxy(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def forward(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                server.requests += 1
                if server.stalls > 0:
                    server.stalls -= 1
                    time.sleep(server.stall_seconds)
                if server._random.random() < server.failures:
                    self.answer(503, [], b'{"error": {"code": 503, "message": "injected"}}')
                    return
                if "ifGenerationMatch=0" in self.path:  # the emulator ignores this condition
                    name = re.search(rb'"name": "([^"]*)"', body)[1].decode()
                    with server._creating:
                        if name in server._created:
                            self.answer(412, [], b"{}")
                            return
                        server._created.add(name)
                if self.command == "DELETE":
                    server._created.discard(urllib.parse.unquote(self.path.partition("/o/")[2]))
                connection = http.client.HTTPConnection("127.0.0.1", behind_port)
                headers = {key: value for key, value in self.headers.items() if key != "Accept-Encoding"}
                connection.request(self.command, self.path, body, headers)
                found = connection.getresponse()
                skipped = {"transfer-encoding", "content-length", "connection", "date", "server"}
                self.answer(found.status, [h for h in found.getheaders() if h[0].lower() not in skipped], found.read())
                connection.close()

            def answer(self, status, headers, content):
                with contextlib.suppress(ConnectionError):  # the client was killed
                    self.send_response(status)
                    for name, value in headers:
                        self.send_header(name, value.replace(f":{behind_port}", f":{port}"))
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = forward  # noqa: N815

            def log_message(self, *arguments):
                pass

        class Threads(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request, address):
                pass  # the client was killed

        self._proxy = Threads(("127.0.0.1", port), Proxy)
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()

    def objects(self, prefix=""):
        """The paths of all objects in the bucket."""
        from mtan_jax.runtime import bucket

        return sorted(name for name in bucket.find(BUCKET) if name.startswith(prefix))

    def reset(self):
        """Deletes all objects, and ends the faults."""
        from mtan_jax.runtime import bucket

        self.failures = self.stalls = 0
        bucket.delete([f"{BUCKET}/{name}" for name in self.objects()])

    def stop(self):
        self._proxy.shutdown()
        self._proxy.server_close()
        self._emulator.stop()


def enter_machine(monkeypatch, home):
    """Makes this process, and those that it starts, run on a machine whose disk is a folder: without other mirrors."""
    from mtan_jax.runtime import mirror

    monkeypatch.setenv("HOME", str(home))
    for folder in (mirror._private, mirror._kept):
        folder.cache_clear()


@contextlib.contextmanager
def serving():
    """Runs the emulator, and lets this process and those that it starts use it."""
    from mtan_jax.runtime import bucket

    server = Server()
    before = {name: os.environ.get(name) for name in server.environment}
    os.environ.update(server.environment)
    bucket._filesystem.cache_clear()
    try:
        yield server
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        bucket._filesystem.cache_clear()
        server.stop()
