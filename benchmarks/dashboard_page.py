"""Measure the dashboard's page in Chromium; see benchmarks/README.md.

Usage: python -m benchmarks.dashboard_page [--runs 8] [--points 200000]

Prints the gzipped sizes of the built scripts, and the time per frame while the curves of several runs are panned. The
API and the browser are real; the metrics of the runs are written directly to the database.
"""

import argparse
import gzip
import math
import re
import statistics
import tempfile
from pathlib import Path

import sqlalchemy as sa
from playwright.sync_api import Page, sync_playwright

from api.routes.dashboard import find_bundle
from jobs.database.tables import MetricPoint
from tests.api.conftest import Api, serving, small
from tests.browser.chromium import launch
from tests.browser.site import Site
from tests.browser.test_job_page import finetune

BATCH = 20_000
FRAMES = 120
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
    bundle = find_bundle()
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
    for start in range(0, points, BATCH):
        rows = [
            {"job_id": job, "name": "loss", "step": step, "attempt": 1, "value": 3 / math.log(step + 3) + step % 7 / 50}
            for step in range(start, min(points, start + BATCH))
        ]
        with api.database.writing() as connection:
            connection.execute(sa.insert(MetricPoint), rows)
    return job


def measure_frames(page: Page) -> list[float]:
    """Zoom in, pan, and return the milliseconds of all frames, sorted."""
    page.locator(".u-over").first.wait_for()
    for _ in range(4):
        page.locator(".plot").first.press("+")
    page.wait_for_timeout(1000)
    return sorted(page.evaluate(PAN, FRAMES))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--points", type=int, default=200_000)
    arguments = parser.parse_args()
    print_sizes()
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(small(Path(folder) / "home")) as api,
        sync_playwright() as playwright,
    ):
        api.register_model()
        jobs = [add_run(api, arguments.points) for _ in range(arguments.runs)]
        site = Site(launch(playwright), api.url)
        with site.page(f"curves?runs={','.join(jobs)}") as page:
            times = measure_frames(page)
        site.browser.close()
    slow = times[int(len(times) * 0.95)]
    print(
        f"pan of {arguments.runs} runs with {arguments.points} points: {statistics.median(times):.0f} ms per frame"
        f" (median), {slow:.0f} ms (95%)"
    )


if __name__ == "__main__":
    main()
