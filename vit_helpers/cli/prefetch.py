"""`python -m vit_helpers prefetch`: all that the course needs, on this machine or in a folder."""

from pathlib import Path

from .. import resources, runtime


def run(to: Path | None) -> int:
    """Bring every resource to this machine, or into a folder. Returns 0."""
    folders = resources.bring(tuple(resources.RESOURCES), runtime.settings(), to, tries=2)
    total = 0
    for name, folder in folders.items():
        size = sum(path.stat().st_size for path in resources.files(name, folder))
        total += size
        print(f"{name:<12} {size / 1e6:>8,.1f} MB  {folder}")
    print(f"{'together':<12} {total / 1e6:>8,.1f} MB")
    if to:
        print(f"On each machine that can read this folder: VIT_CACHE={to.absolute()}")
    return 0
