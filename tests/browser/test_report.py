"""The report in a real browser: what a person sees, on a desk, on a phone and in the dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from holdfast.assessment import Effort, assess
from holdfast.data import dataset
from holdfast.evidence.record import Record
from holdfast.models import build_architecture
from holdfast.training import Standard, train
from holdfast.training.recipes import Schedule

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=2000",
]
EFFORT = Effort(
    rates=(1e-3, 1e-2), chips=2, images=50, trials=100, weight_trials=20, probes=8, shield_images=2, lies=10
)

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = Standard(schedule=Schedule(3, 0.1, 64))
    model = train(build_architecture("digits-cnn", seed=0), dataset("digits", split="train"), recipe, seed=0)
    out = tmp_path_factory.mktemp("report") / "out"
    assess(model, dataset("digits"), out=out, effort=EFFORT, title="Digits <net>")
    return out


def browse(page: Path, profile: Path, *flags: str) -> str:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


def measured(folder: Path, kind: str, name: str) -> float:
    return Record.from_bytes((folder / "records" / f"{kind}.json").read_bytes()).measured[name].value


def test_the_page_shows_the_verdicts_and_the_records_numbers(folder: Path, tmp_path: Path) -> None:
    page = browse(folder / "report.html", tmp_path, "--dump-dom")
    for promise in ("Authentic", "Platform", "Holds", "Shielded"):
        assert f"<h3>{promise}</h3>" in page
    assert "Digits &lt;net&gt;" in page
    assert f"{measured(folder, 'artifact', 'clean-accuracy') * 100:.2f} %" in page
    assert f"{measured(folder, 'fault-campaign-hardened', 'critical-or-due'):.2%}" in page
    assert "ephemeral key" in page
    assert len(re.findall(r"<svg ", page)) == 6  # five charts, and the drawing of the lineage
    for record in (folder / "records").glob("*.json"):
        assert f"records/{record.name}" in page


PROBE = """<script>
const parts = [...document.querySelectorAll('main > *, .card, figure')];
const wide = parts.filter(e => e.getBoundingClientRect().right > innerWidth + 1);
const size = parseFloat(getComputedStyle(document.querySelector('.card p')).fontSize);
document.title = JSON.stringify({view: innerWidth, page: document.documentElement.scrollWidth, wide: wide.length,
  size, requests: performance.getEntriesByType('resource').length});
</script></body>"""


def probe(folder: Path, tmp_path: Path, *flags: str) -> dict[str, object]:
    page = tmp_path / "probe.html"
    frame = tmp_path / "frame.html"
    page.write_text((folder / "report.html").read_text().replace("</body>", PROBE))
    # a headless window has a least width, an iframe has none
    frame.write_text(
        '<iframe id="f" src="probe.html" style="width:380px;height:800px;border:0"></iframe><script>'
        "f.onload = () => { document.title = f.contentDocument.title }</script>"
    )
    dom = browse(frame, tmp_path / "profile", "--allow-file-access-from-files", "--dump-dom", *flags)
    found = re.search(r"<title>(.*?)</title>", dom)
    assert found is not None
    return json.loads(found.group(1))


def test_it_fits_a_phone_and_asks_nobody_for_anything(folder: Path, tmp_path: Path) -> None:
    seen = probe(folder, tmp_path)
    assert seen["view"] == 380
    assert seen["page"] <= 380
    assert seen["wide"] == 0
    assert seen["size"] >= 14
    assert seen["requests"] == 0


def test_it_follows_dark_mode(folder: Path, tmp_path: Path) -> None:
    light, dark = tmp_path / "light.png", tmp_path / "dark.png"
    browse(folder / "report.html", tmp_path / "a", "--window-size=900,900", f"--screenshot={light}")
    scheme = "--blink-settings=preferredColorScheme=0"
    browse(folder / "report.html", tmp_path / "b", "--window-size=900,900", scheme, f"--screenshot={dark}")
    bright, dim = (Image.open(path).convert("L").getpixel((5, 5)) for path in (light, dark))
    assert bright > 240
    assert dim < 40
