"""A service that ends as a good one does: after SIGTERM it goes on, and asks clients to leave.

    python serving.py PORT

Every HTTP request gets the name of the instance. From SIGTERM on each answer says
`Connection: close`; new connections are still taken for `GRACE_S`, for balancers need a moment.
It runs on the standard library alone, as a task in a sandbox.
"""

import http.server
import os
import signal
import socket
import sys
import threading

GRACE_S = 1.0


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512
    daemon_threads = True
    ending = False
    busy = 0


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def handle(self) -> None:
        with lock:
            self.server.busy += 1
        try:
            super().handle()
        finally:
            with lock:
                self.server.busy -= 1
                idle.notify_all()

    def do_GET(self) -> None:
        body = f"{name}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        if self.server.ending:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        return


def end(*_: object) -> None:
    server.ending = True
    # shutting down waits for the serving thread, which this one interrupted
    threading.Timer(GRACE_S, server.shutdown).start()


lock = threading.Lock()
idle = threading.Condition(lock)
name = f"{os.environ.get('HOST', socket.gethostname())}:{sys.argv[1]}"
server = Server(("", int(sys.argv[1])), Handler)
signal.signal(signal.SIGTERM, end)
server.serve_forever(poll_interval=0.05)
with idle:
    idle.wait_for(lambda: not server.busy, timeout=GRACE_S)
