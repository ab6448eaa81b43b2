"""The program behind the member `code_gen`: writes a predictor for the network that was found, which needs only numpy.

Into `nn_model/` of the project's folder: predictor.py, the weights, and deployment.yaml. The predictor is tried before.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

TEMPLATE = '''"""Reads handwritten digits of 8 by 8 pixels. Written by code_gen for project {project}.

Usage: predictor.py [--port N]: GET /health; POST /predict {{"image": [64 brightnesses from 0 to 1]}}.
Without --port it reads the same object from standard input.
"""

import argparse
import json
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

NAMES = {names}
WEIGHTS = np.load(Path(__file__).with_name("weights.npz"))


def predict(image):
    x = np.asarray(image, dtype=np.float32)
    if x.shape != (64,) or not np.isfinite(x).all():
        raise ValueError("image must be 64 finite numbers")
{layers}
    x = np.exp(x - x.max())
    x /= x.sum()
    return {{"label": NAMES[int(x.argmax())], "probability": round(float(x.max()), 4)}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.say(200, {{"status": "ok"}}) if self.path == "/health" else self.say(404, {{"error": "GET /health"}})

    def do_POST(self):
        size = int(self.headers.get("Content-Length") or 0)
        if self.path != "/predict" or size > 65536:
            return self.say(404, {{"error": "POST /predict, of at most 64 KiB"}})
        try:
            self.say(200, predict(json.loads(self.rfile.read(size))["image"]))
        except (ValueError, TypeError, KeyError) as error:
            self.say(400, {{"error": str(error)}})

    def say(self, status, value):
        body = json.dumps(value).encode() + b"\\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    if options.port is None:
        print(json.dumps(predict(json.load(sys.stdin)["image"])))
        return
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Handler)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"predictor: http://127.0.0.1:{{server.server_port}}/predict", flush=True)
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
'''
_ACTIVATIONS = {"relu": "np.maximum({}, 0)", "tanh": "np.tanh({})"}


def main() -> None:
    folder = Path(os.environ["TANGO_PROJECT_DIR"])
    info = yaml.safe_load((folder / "neural_net_info.yaml").read_text())
    lines = []
    for number in range(len(info["layers"]) + 1):
        layer = f'x @ WEIGHTS["weight_{number}"] + WEIGHTS["bias_{number}"]'
        hidden = number < len(info["layers"])
        lines.append(f"    x = {_ACTIVATIONS[info['activation']].format(layer) if hidden else layer}")
    target = folder / "nn_model"
    target.mkdir(exist_ok=True)
    shutil.copyfile(folder / info["weight_file"], target / "weights.npz")
    program = target / "predictor.py"
    names = [str(name) for name in info["names"]]
    project = os.environ["TANGO_PROJECT_ID"]
    program.write_text(TEMPLATE.format(project=project, names=names, layers="\n".join(lines)))
    deployment = {
        "build": {"architecture": "x86", "accelerator": "cpu", "components": {"custom_packages": {"pypi": ["numpy"]}}},
        "deploy": {"type": "pc", "work_dir": "nn_model", "entrypoint": ["python", "predictor.py"]},
    }
    for place in (folder, target):
        (place / "deployment.yaml").write_text(yaml.safe_dump(deployment, sort_keys=False))
    tried = subprocess.run(
        [sys.executable, str(program)],
        input='{"image": [' + ",".join(["0.5"] * 64) + "]}",
        capture_output=True,
        text=True,
    )
    if tried.returncode:
        raise SystemExit(f"code_gen: what was generated does not run: {tried.stderr}")
    print(f"code_gen: {program} says {tried.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
