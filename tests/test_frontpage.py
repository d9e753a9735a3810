"""The README shows what the notebooks hold."""

import io
from pathlib import Path

import pytest
from PIL import Image

from vit_helpers import frontpage

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("stem", frontpage.PICTURES)
def test_the_picture_is_the_one_in_the_saved_output(stem):
    stored = (ROOT / "docs" / "pictures" / f"{stem}.png").read_bytes()
    content, words = frontpage.picture(ROOT, stem)
    pictures = [Image.open(io.BytesIO(png)).convert("RGB") for png in (stored, content)]
    assert pictures[0].size == pictures[1].size
    assert pictures[0].tobytes() == pictures[1].tobytes()
    assert len(stored) < 80_000
    assert f"![{words}](docs/pictures/{stem}.png)" in README


def test_the_table_is_the_one_that_refresh_writes():
    rows = [frontpage.row(ROOT, s, frontpage.picture(ROOT, s)[1]) for s in frontpage.PICTURES]
    assert frontpage.with_table(README, rows) == README
