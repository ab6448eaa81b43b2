"""The curves, pictures and messages on a job's page, as they come."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import httpx2
from playwright.sync_api import Browser, Page, expect

from runyard.client import Client
from tests.system.server import Server
from tests.ui.conftest import PATIENCE, visitor

expect.set_options(timeout=PATIENCE)
PROGRAM = """
import sys, time
from pathlib import Path
from runyard import report

gate = Path(sys.argv[1])

def wait(name):
    while not (gate / name).exists():
        time.sleep(0.02)

def learn(rate):
    raise ZeroDivisionError(f"the rate is {rate}")

with report.run():
    for step in range(1, 51):
        report.metrics(loss=1 / step, step=step)
    report.metrics(samples=1437)
    print("before", flush=True)
    wait("more")
    print("after", flush=True)
    report.metrics(loss=0.005, accuracy=0.5, step=51)
    report.metrics(accuracy=float("nan"), step=52)
    report.metrics(accuracy=0.875, step=53)
    report.matrix("confusion", [[8, 1], [0, 9]], labels=["cat", "<b>dog</b>"])
    report.image("input", [[0, 255], [255, 0]])
    report.text("remain_time", "0:00:09")
    report.log("a line <script>document.title='taken'</script>")
    wait("fail")
    learn(0)
"""


def training(client: Client, folder: Path) -> str:
    file = folder / "training.py"
    file.write_text(PROGRAM)
    return client.submit(command=[sys.executable, str(file), str(folder)], name=f"training-{folder.name}").id


def turn(page: Page, hidden: bool) -> None:
    """As if another tab came to the front, or this one again."""
    page.evaluate(
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )


def test_curves_messages_and_use_are_drawn_as_they_come(page: Page, client: Client, tmp_path: Path) -> None:
    job = training(client, tmp_path)
    page.goto(f"/job/{job}")
    curves = page.get_by_role("region", name="Curves")
    loss = curves.locator(".chart", has_text="loss")
    expect(loss.locator("output")).to_have_text("0.02")
    expect(loss.get_by_role("img")).to_have_attribute("aria-label", "loss: from 0.02 to 1, last 0.02")
    expect(curves.locator(".values")).to_have_text("samples1437")
    assert (loss.locator(".curve").get_attribute("d") or "").count("L") == 49
    loss.get_by_role("img").hover(position={"x": 1, "y": 50})
    expect(loss.locator("output")).to_have_text("1 at 1 steps")

    # While another tab is in front, nothing is read; what was missed is there afterwards.
    turn(page, hidden=True)
    (tmp_path / "more").touch()
    turn(page, hidden=False)
    expect(loss.get_by_role("img")).to_have_attribute("aria-label", "loss: from 0.005 to 1, last 0.005")
    accuracy = curves.locator(".chart", has_text="accuracy")
    expect(accuracy.locator("output")).to_have_text("0.875")
    # A gap in the curve where the value was no number.
    assert (accuracy.locator(".curve").get_attribute("d") or "").count("M") == 2
    said = page.get_by_role("region", name="Messages")
    expect(said.locator(".matrix")).to_contain_text("train_confusion")
    expect(said.locator(".matrix thead")).to_have_text("cat<b>dog</b>")
    expect(said.get_by_role("img", name="train_input")).to_have_js_property("naturalWidth", 2)
    expect(said.locator(".texts")).to_have_text("train_remain_time0:00:09")
    expect(said.locator(".messages")).to_contain_text("a line <script>")

    use = page.get_by_role("region", name="Use")
    expect(use.locator(".chart", has_text="memory").locator(".curve")).to_have_count(1)
    (tmp_path / "fail").touch()
    error = said.locator("tr.bad")
    expect(error.locator("strong")).to_have_text("ZeroDivisionError: the rate is 0")
    trace = error.get_by_role("table", name="Traceback")
    expect(trace.locator("tr").last).to_contain_text('raise ZeroDivisionError(f"the rate is {rate}")')
    expect(trace.locator("tr").first).to_contain_text("learn(0)")
    expect(page.locator("#state")).to_have_text("failed")

    expect(page.locator("#output-stdout")).to_have_text("before\nafter\n")

    # Everything is there for whoever comes later.
    page.reload()
    expect(curves.locator(".chart")).to_have_count(2)
    expect(said.locator(".messages tbody").first).to_contain_text("ZeroDivisionError")
    expect(said.get_by_role("img", name="train_input")).to_have_js_property("naturalWidth", 2)
    expect(page).not_to_have_title("taken")


def test_reports_of_any_program_are_shown(
    browser: Browser, server: Server, client: Client, complaints: list[str]
) -> None:
    line = '@runyard {"type": "metrics", "body": {"speed": %d, "step": %d}}'
    lines = "\n".join(line % (number * number, number) for number in range(10))
    job = client.submit(script=f"printf '%s\\n' {shlex.quote(lines)}", name="any-language").id
    client.wait(job)
    with visitor(browser, server, complaints) as page:
        page.goto(f"/job/{job}")
        speed = page.locator("#charts .chart")
        expect(speed).to_have_count(1)
        expect(speed.get_by_role("img")).to_have_attribute("aria-label", "speed: from 0 to 81, last 81")
        # A job that says nothing has no such parts.
        silent = client.submit(command=["true"], name="silent").id
        client.wait(silent)
        page.goto(f"/job/{silent}")
        expect(page.locator("#state")).to_have_text("succeeded")
        expect(page.get_by_role("region", name="Curves")).to_be_hidden()
        expect(page.get_by_role("heading", name="Messages")).to_have_count(0)
    assert complaints == []


def test_a_picture_runs_no_script_and_is_nobody_elses(http: httpx2.Client, client: Client) -> None:
    job = client.submit(command=["true"], name="picture").id
    svg = "<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"
    data = {"title": "train_drawing", "payload": svg, "format": "svg"}
    body = [{"type": "image", "category": "train", "data": data}]
    answer = http.post(f"/api/v1/jobs/{job}/messages", json={"type": "metrics", "body": body})
    assert answer.status_code == 201, answer.text
    seq = answer.json()["last"]
    found = http.get(f"/job/{job}/picture/{seq}/0")
    assert (found.status_code, found.text) == (200, svg)
    assert found.headers["content-type"] == "image/svg+xml"
    policy = found.headers["content-security-policy"]
    assert "sandbox" in policy and "default-src 'none'" in policy and "script-src" not in policy
    for place in (f"{seq}/1", f"{seq + 1}/0", "0/0", "x/0", f"{seq}/-1", "9" * 30 + "/0"):
        assert http.get(f"/job/{job}/picture/{place}").status_code == 404, place
    other = client.submit(command=["true"], name="no-picture").id
    assert http.get(f"/job/{other}/picture/{seq}/0").status_code == 404
