"""Measure the dashboard's page in Chromium; see benchmarks/README.md.

Usage: python -m benchmarks.dashboard_page [--runs 8] [--points 200000] [--seconds 20]

Prints the gzipped sizes of the built scripts, the time per frame while the curves of several runs are panned, and the
CPU time of a page while five jobs report every second: visible, and in a hidden tab. The API and the browser are real;
the metrics and reports of the runs are written directly to the database.
"""

import argparse
import gzip
import math
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from playwright.sync_api import Browser, Page, expect, sync_playwright

from api.routes.dashboard import get_bundle_folder
from jobs.database.tables import MetricPoint
from jobs.service.metrics import Point
from tests.api.conftest import Api, serving, small
from tests.browser.chromium import launch
from tests.browser.site import Site
from tests.browser.test_job_page import finetune
from tests.jobs.pool import add_worker, hold

BATCH = 20_000
FRAMES = 120
LIVE_JOBS = 5
LIVE_STEPS = 2000  # logged before the measurement
REPORT_SECONDS = 1.0  # as often as a worker reports
SETTLE_SECONDS = 5.0
# The page acts on the event as it does in a real hidden tab; the browser, which would throttle it, does not.
HIDE = """() => {
  Object.defineProperty(document, 'visibilityState', { get: () => 'hidden' });
  Object.defineProperty(document, 'hidden', { get: () => true });
  document.dispatchEvent(new Event('visibilitychange', { bubbles: true }));
}"""
# Pans by a small step in every frame and returns the milliseconds between frames.
PAN = """async (frames) => {
  const target = document.querySelector('.u-over');
  const box = target.getBoundingClientRect();
  const at = (type, x) => target.dispatchEvent(
    new PointerEvent(type, { clientX: x, clientY: box.top + 20, pointerId: 1, bubbles: true }));
  const capture = target.setPointerCapture;
  target.setPointerCapture = () => undefined; // a synthetic pointer cannot be captured
  const times = [];
  let x = box.left + box.width / 2;
  at('pointerdown', x);
  let last = performance.now();
  for (let frame = 0; frame < frames; frame += 1) {
    x += frame < frames / 2 ? -3 : 3;
    at('pointermove', x);
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  at('pointerup', x);
  target.setPointerCapture = capture;
  return times;
}"""


def print_sizes() -> None:
    """Print the gzipped size of the first page's scripts and of the largest others."""
    bundle = get_bundle_folder()
    first = set(re.findall(r"assets/([\w.-]+\.js)", (bundle / "index.html").read_text(encoding="utf-8")))
    sizes = {file.name: len(gzip.compress(file.read_bytes(), 9)) / 1000 for file in (bundle / "assets").glob("*.js")}
    print(f"first page: {sum(size for name, size in sizes.items() if name in first):.1f} kB of gzipped script")
    others = sorted(((size, name) for name, size in sizes.items() if name not in first), reverse=True)
    for size, name in others[:3]:
        print(f"further script {name}: {size:.1f} kB")


def add_run(api: Api, points: int) -> str:
    """Submit a fine-tuning job and log its loss: a falling curve with noise."""
    job = finetune(api)
    api.start(job)
    log_loss(api, job, points)
    return job


def log_loss(api: Api, job: str, points: int) -> None:
    """Log the first steps of a run: noise around a falling curve."""
    for start in range(0, points, BATCH):
        rows = [
            {"job_id": job, "name": "loss", "step": step, "attempt": 1, "value": 3 / math.log(step + 3) + step % 7 / 50}
            for step in range(start, min(points, start + BATCH))
        ]
        with api.database.writing() as connection:
            connection.execute(sa.insert(MetricPoint), rows)


def measure_frames(browser: Browser, page: Page) -> tuple[list[float], float]:
    """Zoom in and pan; return the milliseconds of all frames, sorted, and the CPU milliseconds per frame."""
    page.locator(".u-over").first.wait_for()
    for _ in range(4):
        page.locator(".plot").first.press("+")
    page.wait_for_timeout(1000)
    used = read_cpu_seconds(browser)
    times = sorted(page.evaluate(PAN, FRAMES))
    return times, (read_cpu_seconds(browser) - used) * 1000 / FRAMES


@contextmanager
def reporting(api: Api) -> Iterator[list[str]]:
    """Let five jobs report progress, a step and a line of output every second; yields their ids."""
    jobs = [finetune(api) for _ in range(LIVE_JOBS)]
    attempts = [api.start(job) for job in jobs]
    for job in jobs:
        log_loss(api, job, LIVE_STEPS)
    stop = threading.Event()
    thread = threading.Thread(target=_report, args=[api, attempts, stop])
    thread.start()
    try:
        yield jobs
    finally:
        stop.set()
        thread.join()


def _report(api: Api, attempts: Sequence[str], stop: threading.Event) -> None:
    step = LIVE_STEPS
    while not stop.wait(REPORT_SECONDS):
        step += 1
        metrics = {"loss": 3 / math.log(step + 3), "learning_rate": 1e-4}
        progress = {"fraction": min(0.99, step / LIVE_STEPS / 2), "stage": "training", "metrics": metrics}
        line = ("log", {"stream": "stdout", "lines": [f"step {step}: loss {metrics['loss']:.4f}"]})
        for attempt in attempts:
            with api.database.writing() as connection:
                hold(connection, attempt, "wrk-1", api.settings).renew(progress, [line], [Point(step, metrics)])


def read_cpu_seconds(browser: Browser) -> float:
    """Return the CPU time of all pages and workers of the browser since their start."""
    session = browser.new_browser_cdp_session()
    found = session.send("SystemInfo.getProcessInfo")["processInfo"]
    session.detach()
    return sum(float(process["cpuTime"]) for process in found if process["type"] == "renderer")


def measure_cpu(browser: Browser, page: Page, seconds: float) -> float:
    """Return what the browser's pages use as a fraction of a core."""
    page.wait_for_timeout(SETTLE_SECONDS * 1000)
    began, used = time.perf_counter(), read_cpu_seconds(browser)
    page.wait_for_timeout(seconds * 1000)
    return (read_cpu_seconds(browser) - used) / (time.perf_counter() - began)


def record_requests(page: Page) -> list[str]:
    """Return a list that the addresses of the page's further requests are added to."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    return asked


def print_idle_costs(api: Api, site: Site, seconds: float) -> None:
    """Print what pages cost while five jobs report, and what they cost in a hidden tab."""
    with reporting(api) as jobs:
        for name, path in (("list of jobs", "jobs"), ("curves", f"curves?runs={','.join(jobs)}")):
            with site.page(path) as page:
                expect(page.locator(".connection")).to_have_text("Live")
                visible = measure_cpu(site.browser, page, seconds)
                page.evaluate(HIDE)
                page.wait_for_timeout(SETTLE_SECONDS * 1000)  # what was asked before is still answered
                asked = record_requests(page)
                hidden = measure_cpu(site.browser, page, seconds)
            print(
                f"{LIVE_JOBS} live jobs, {name}: {visible:.1%} of a core; in a hidden tab {hidden:.1%}"
                f" and {len(asked)} requests"
            )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    print_sizes()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(small(Path(folder) / "home")) as api,
        sync_playwright() as playwright,
    ):
        api.register_model()
        add_worker(api.database, "wrk-1", slots=LIVE_JOBS)
        site = Site(launch(playwright), api.url)
        print_idle_costs(api, site, arguments.seconds)
        add_worker(api.database, "wrk-1", slots=LIVE_JOBS + arguments.runs)
        jobs = [add_run(api, arguments.points) for _ in range(arguments.runs)]
        with site.page(f"curves?runs={','.join(jobs)}") as page:
            times, cpu = measure_frames(site.browser, page)
        site.browser.close()
    slow = times[int(len(times) * 0.95)]
    print(
        f"pan of {arguments.runs} runs with {arguments.points} points: {statistics.median(times):.0f} ms per frame"
        f" (median), {slow:.0f} ms (95%), {cpu:.0f} ms of CPU time"
    )


if __name__ == "__main__":
    main()
