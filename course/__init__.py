"""For maintainers and instructors, from a clone: run, solve, check, publish the notebooks."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
