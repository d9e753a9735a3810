"""The five notebooks on a model of the real size: minutes and memory on two cores.

The stand-in serves a ViT-B/16; what it serves is brought to a folder first, as for a room without
a network.
"""

import hub_stand_in
import pytest

from course import runner
from vit_helpers import resources, runtime

MINUTES, GIB = 8, 8
SILENT_SECONDS = 60  # a longer cell says beforehand about how long it will take

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder that holds all that the course needs from the Hub."""
    folder = tmp_path_factory.mktemp("hub")
    with pytest.MonkeyPatch.context() as patch:
        with hub_stand_in.StandIn(hub_stand_in.full_size()) as stand_in:
            patch.setenv("HF_ENDPOINT", stand_in.address)
            patch.setenv("VIT_CACHE", str(folder / "own"))
            for name, row in stand_in.rows().items():
                patch.setitem(resources.RESOURCES, name, row)
            resources.bring(tuple(resources.RESOURCES), runtime.settings(), folder / "stick")
    return folder / "stick"


@pytest.mark.parametrize("path", runner.find(), ids=lambda path: path.stem)
def test_a_notebook_with_the_real_size_fits_two_cores(path, folder, monkeypatch):
    monkeypatch.setenv("VIT_SOURCE", "hub")
    monkeypatch.setenv("VIT_CACHE", str(folder))
    notebook, run = runner.execute(path)
    print(f"{run.notebook}: {run.minutes:.1f} min, {run.peak_gib:.1f} GiB, {run.figures}")
    slowest = sorted(run.seconds.items(), key=lambda pair: -pair[1])[:6]
    print("  slowest cells: " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in slowest))
    assert not run.error
    assert "source hub" in "".join(
        o.get("text", "") for c in notebook.cells[:4] for o in c.get("outputs", [])
    )
    assert run.minutes <= MINUTES
    assert run.peak_gib <= GIB
    for cell in notebook.cells:
        if run.seconds.get(cell.get("id"), 0) > SILENT_SECONDS:
            said = "".join(output.get("text", "") for output in cell.outputs)
            assert "min here" in said, f"{cell.id}: {run.seconds[cell.id]} s without a forecast"
