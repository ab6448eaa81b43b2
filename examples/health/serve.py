"""A small health service: `GET /health` answers with the load and the free disk space of this host as JSON.

Usage: serve.py [--host HOST] [--port PORT]. Ends on SIGTERM once the requests in hand are answered.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

STARTED = time.monotonic()


def health() -> dict[str, object]:
    disk = shutil.disk_usage("/")
    return {
        "status": "ok",
        "pid": os.getpid(),
        "uptime_seconds": round(time.monotonic() - STARTED, 3),
        "load": os.getloadavg(),
        "disk": {"total": disk.total, "free": disk.free},
    }


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path != "/health":
            self.send_error(404, "there is only /health")
            return
        body = json.dumps(health()).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        print(f"{self.log_date_time_string()} {self.address_string()} {format % args}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=7080, help="port to listen on (default 7080)")
    options = parser.parse_args()
    try:
        server = ThreadingHTTPServer((options.host, options.port), Handler)
    except OSError as error:
        raise SystemExit(f"can't listen on {options.host}:{options.port}: {error.strerror}") from None
    # shutdown() waits for the loop that the handler interrupts, so it needs a thread of its own.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    with server:
        print(f"health: http://{options.host}:{server.server_port}/health", flush=True)
        server.serve_forever(poll_interval=0.1)
    print("health: ended", flush=True)


if __name__ == "__main__":
    main()
