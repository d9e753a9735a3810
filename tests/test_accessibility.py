"""What the list in docs/accessibility.md says of colours is so."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHEETS = {
    "live page": ROOT / "course" / "live" / "live.css",
    "explorer": ROOT / "vit_helpers" / "widgets" / "explorer.css",
}
ENOUGH = 4.5  # WCAG 2.2, 1.4.3: text against its background


def luminance(colour):
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * d for d in digits)
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def themes(sheet):
    """The colours by name of each block of a style sheet that sets them: light, then dark."""
    text = sheet.read_text(encoding="utf-8")
    blocks = re.findall(r"^[^{}]+\{[^{}]*--[^{}]*\}", text, flags=re.M)
    found = [dict(re.findall(r"--(?:vx-)?(\w+): (#\w+);", block)) for block in blocks]
    return [colours for colours in found if {"ground", "ink", "soft", "accent"} <= set(colours)]


def test_contrast_is_measured_as_wcag_does():
    assert contrast("#000", "#fff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("name", SHEETS)
def test_text_can_be_read_in_light_and_dark(name):
    light, dark = themes(SHEETS[name])
    assert luminance(light["ground"]) > 0.5 > luminance(dark["ground"])
    for colours in (light, dark):
        for ground in {"ground", "card", "tint"} & set(colours):
            for text in {"ink", "soft", "accent", "alarm"} & set(colours):
                assert contrast(colours[text], colours[ground]) >= ENOUGH, (text, ground)
