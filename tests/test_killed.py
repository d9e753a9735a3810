"""Training after a lost session: a process is killed, and another one gets the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

# For each run a process of its own, forked before anything is computed. It trains, is killed or
# not, and leaves what it printed and the weights in its folder.
SCRIPT = """
import contextlib, os, signal, sys
from pathlib import Path

import torch
from factories import fitted, tiny

from vit_helpers import runtime
from vit_helpers.training import loop

PLACES = {"step": (loop, "clip_grad_norm_"), "save": (torch, "save")}


def kill_at(place, call):
    owner, name = PLACES[place]
    original, calls = getattr(owner, name), []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            if place == "save":
                Path(args[1]).write_bytes(b"half of a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, killed)


def train(folder, place, call):
    runtime.start("classifier")
    if place in PLACES:
        kill_at(place, int(call))
    model = tiny()
    fitted(model, checkpoint_dir=folder)
    weights = b"".join(v.numpy().tobytes() for v in model.state_dict().values())
    Path(folder, "weights").write_bytes(weights)


for run in sys.argv[1:]:
    folder, place, call = run.split(":")
    pid = os.fork()
    if not pid:
        with open(Path(folder, "printed"), "w") as out, contextlib.redirect_stdout(out):
            train(folder, place, call)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
# Three steps and one checkpoint an epoch: where it is killed, and the epoch that is kept.
KILLED = {
    "in the first epoch": ("step", 2, 0),
    "in the second epoch": ("step", 5, 1),
    "while a checkpoint is written": ("save", 2, 1),
}


def test_a_killed_run_goes_on_in_another_process(tmp_path):
    runs, folders = [], {}
    for name in ("nobody interrupts it", *KILLED):
        folders[name] = folder = tmp_path / name.replace(" ", "-")
        folder.mkdir()
        if name in KILLED:
            runs.append(f"{folder}:{KILLED[name][0]}:{KILLED[name][1]}")
        runs.append(f"{folder}::")
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *runs],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.stdout.split() == ["0", *["-9", "0"] * 3], done.stderr
    whole = (folders.pop("nobody interrupts it") / "weights").read_bytes()
    for name, folder in folders.items():
        epoch = KILLED[name][-1]
        printed = (folder / "printed").read_text()
        assert (f"Going on after epoch {epoch} of 3." in printed) == (epoch > 0), name
        assert (folder / "weights").read_bytes() == whole, name
        left = sorted(path.name for path in folder.iterdir())
        assert left == ["last.pt", "printed", "weights"], name
