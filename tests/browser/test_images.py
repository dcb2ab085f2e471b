"""The pictures of the page in docs/images: ``make screenshots`` writes them, from the recorded figures of the demo.

Look at them before you commit them. Without ``KLAIS_TEST_IMAGES`` they go to a folder of the test.
"""

import base64
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from klais.ui.recording import Recording
from tests.support.browser import Watched

WIDTH, HEIGHT = 1080, 720
MAX_BYTES = 120_000
DOCS = Path(__file__).parents[2] / "docs"
IMAGES = {"overview": "overview", "devices": "devices?size=50", "device": "", "control": "control"}


@pytest.mark.parametrize("name", IMAGES)
def test_a_picture_of_the_page_is_small_and_shown_in_the_documents(
    tab: Callable[..., Watched], demo: str, recording: Recording, tmp_path: Path, name: str
) -> None:
    known = next(path for path in recording.pages if path.endswith("/why/")).split("/")[2]
    shown = tab(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", reduced_motion="reduce")
    shown.page.goto(f"{demo}/ui/#/{IMAGES[name] or 'device/' + known}")
    shown.page.wait_for_selector("main table tbody th")
    target = Path(os.environ.get("KLAIS_TEST_IMAGES", tmp_path)) / f"live-{name}.webp"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(webp(shown))
    data = target.read_bytes()
    assert data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    assert len(data) <= MAX_BYTES
    assert f"images/{target.name}" in (DOCS / "operations.md").read_text()
    assert (DOCS / "images" / target.name).is_file()


def webp(shown: Watched) -> bytes:
    """What the tab shows, as WebP: a third of a PNG."""
    session = shown.page.context.new_cdp_session(shown.page)
    made = session.send("Page.captureScreenshot", {"format": "webp", "quality": 75})
    return base64.b64decode(made["data"])
