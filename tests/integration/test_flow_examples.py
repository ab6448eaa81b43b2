"""The example flows, each in a host of its own, on real input over HTTP."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image

from runyard.flow.document import parse_document
from runyard.flow.hosted import HostSpec
from runyard.flow.report import FlowState
from tests.flow_host import HostedFlow

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "flow"
NAMES = ("diamond", "digits", "echo", "hello", "regions", "words")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples' folder with a model that was trained for a moment."""
    folder = tmp_path_factory.mktemp("examples") / "flow"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__", "*.onnx"))
    onnx = folder / "digits" / "units" / "digits_classifier" / "digits.onnx"
    script = ROOT / "examples" / "digits" / "train.py"
    command = [sys.executable, str(script), "--epochs", "4", "--onnx", str(onnx)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={"OPENBLAS_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def urls(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """All examples up, each on a free port."""
    with HTTP, ExitStack() as stack:
        hosts = {}
        for name in NAMES:
            path = model / name / f"{name}.toml"
            default = parse_document(path.read_text(), file=str(path)).arguments["endpoint"].default
            assert default is not None
            place = httpx2.URL(default).path
            spec = HostSpec(name=name, path=str(path), args={"endpoint": f"http://127.0.0.1:0{place}"})
            hosts[name] = HostedFlow(tmp_path_factory.mktemp(name), spec).start()
        for host in hosts.values():
            stack.callback(host.__exit__, None, None, None)
        for host in hosts.values():
            host.until(FlowState.RUNNING)
        node = {"echo": "httpserver_sync_receive"}
        yield {name: host.url(node.get(name, "receive")) for name, host in hosts.items()}


HTTP = httpx2.Client(timeout=60)


def post(url: str, content: bytes | str, status: int = 200) -> bytes:
    answer = HTTP.post(url, content=content)
    assert answer.status_code == status, answer.text
    return answer.content


def post_json(url: str, content: bytes | str) -> Any:
    return json.loads(post(url, content))


def test_echo(urls: dict[str, str]) -> None:
    for body in (b"hello", b"", bytes(range(256)) * 1000):
        assert post(urls["echo"], body) == body


def test_hello(urls: dict[str, str]) -> None:
    answer = post_json(urls["hello"], '{"msg": "hello wörld"}')
    assert answer["msg"] == "Hello Wörld" and datetime.fromisoformat(answer["time"]).tzinfo is not None
    for bad in ("hello", '{"message": "x"}', '{"msg": 5}', "[]", b"\xff"):
        assert set(post_json(urls["hello"], bad)) == {"error_msg"}


def picture(digit: int) -> bytes:
    """A picture of the digit out of the data set, enlarged."""
    from sklearn.datasets import load_digits

    data = load_digits()
    index = list(data.target).index(digit)
    pixels = (data.images[index] / 16 * 255).round().astype("uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).resize((48, 48), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def asked(image: bytes) -> str:
    return json.dumps({"image_base64": base64.b64encode(image).decode()})


def test_digits(urls: dict[str, str]) -> None:
    answers = [post_json(urls["digits"], asked(picture(digit))) for digit in range(10)]
    right = sum(answer["predict_result"] == str(digit) for digit, answer in enumerate(answers))
    assert right >= 8, answers
    assert all(0 < answer["probability"] <= 1 for answer in answers)
    seven = post_json(urls["digits"], asked((EXAMPLES / "digits" / "seven.png").read_bytes()))
    assert seven["predict_result"] == "7"


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ('{"image": "x"}', "base64_decoder.ProcessError", "no object with the key 'image_base64'"),
        ("no json", "base64_decoder.ProcessError", "decode failed"),
        ('{"image_base64": "%%%"}', "base64_decoder.ProcessError", "decode failed"),
        (asked(b"no picture"), "ImageDecoder.DecodeFailed", "imdecode failed"),
        (asked(picture(3)[:-20]), "ImageDecoder.DecodeFailed", "imdecode failed"),
    ],
    ids=["wrong key", "no json", "no base64", "no picture", "half a picture"],
)
def test_digits_answers_errors(urls: dict[str, str], content: str, code: str, words: str) -> None:
    answer = post_json(urls["digits"], content)
    assert answer["error_code"] == code and words in answer["error_msg"]


def test_diamond(urls: dict[str, str]) -> None:
    texts = [f"{number} " * (number % 20) for number in range(1, 60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: post(urls["diamond"], text).decode(), texts))
    expected = [text[:20] + "…" if len(text) > 20 else text.upper() + "!" for text in texts]
    assert answers == expected


def test_regions(urls: dict[str, str]) -> None:
    flag = (EXAMPLES / "regions" / "flag.png").read_bytes()
    colours = ["#0055a4", "#ffffff", "#ef4135"]
    for grid, expected in (("3x1", colours), ("3x2", colours * 2), ("3x5", colours * 5)):
        answer = post_json(f"{urls['regions']}?grid={grid}", flag)
        assert answer == {"regions": len(expected), "colours": expected}, "in their order"
    assert post_json(urls["regions"], flag)["regions"] == 4
    assert "imdecode failed" in post_json(urls["regions"], "no picture")["error_msg"]
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "PNG")
    assert "too small" in post_json(f"{urls['regions']}?grid=16x16", file.getvalue())["error_msg"]


def test_words(urls: dict[str, str]) -> None:
    texts = [" ".join(f"word{number}" for number in range(count)) for count in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: post_json(urls["words"], text), texts))
    for count, (text, answer) in enumerate(zip(texts, answers, strict=True)):
        assert answer["words"] == count and answer["letters"] == len(text.replace(" ", ""))
        assert [answer["first"], answer["last"]] == ([f"word{0}", f"word{count - 1}"] if count else ["", ""])
    assert max(answer["largest_batch"] for answer in answers) > 1


def test_the_document_of_the_door_has_the_same_graph_as_the_echo_example() -> None:
    request = json.loads((EXAMPLES / "echo" / "flow-example.json").read_text())
    dot = parse_document(json.dumps(request["job_graph"]), "json").dot
    echo = parse_document((EXAMPLES / "echo" / "echo.toml").read_text(), "toml").dot
    assert dot.split() == echo.replace("$endpoint", "http://localhost:54321/example").split()
