"""The explorer under the two widget managers that this machine's Jupyter does not have.

VS Code brings a manager of its own; Colab and pages with saved widgets use the one for plain pages
(html-manager), or one made of it. Both are on npm, so the very code can be run, with the widget's
saved state and a kernel that never answers. What VS Code and Colab build around it is not tested.
"""

import contextlib
import functools
import http.server
import json
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from browsing import SCREENSHOTS, Explorer, opened
from ipywidgets.embed import dependency_state
from PIL import Image

from course import runner
from vit_helpers.widgets import MOST_MB, explorer, upload_box

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not runner.find_browser(), reason="no Chromium on this machine"),
    pytest.mark.skipif(not shutil.which("npm"), reason="no npm on this machine"),
]
PACKAGES = {
    "vscode": "@vscode/jupyter-ipywidgets8@1.0.9",
    "html": "@jupyter-widgets/html-manager@1.0.15",
    "require": "requirejs@2.3.8",
}
HTML = """
<script src="require/require.js"></script>
<script>
define("anywidget", ["amd/anywidget"], (module) => module);
</script>
<script src="html/dist/embed-amd.js"></script>
<script type="application/vnd.jupyter.widget-state+json">STATE</script>
<script type="application/vnd.jupyter.widget-view+json">VIEW</script>
"""
VSCODE = """
<script src="require/require.js"></script>
<div id="here"></div>
<script type="module">
import { activate } from "./vscode/dist/ipywidgets.js";
activate();
window.vscIPyWidgets8.load();
const loader = {
  widgetsRegisteredInRequireJs: new Set(),
  loadWidgetScript: async () => requirejs.config({ paths: { anywidget: "amd/anywidget" } }),
  successHandler() {},
  errorHandler(...words) { console.error("no class:", ...words.map(String)); },
};
const signal = { connect() {}, disconnect() {} };
const kernel = {
  registerCommTarget() {},
  createComm: (name, id) => ({ commId: id, targetName: name, open() {}, send() {}, close() {} }),
  statusChanged: signal, connectionStatusChanged: signal, iopubMessage: signal,
  status: "idle", username: "", clientId: "", id: "",
};
const here = document.getElementById("here");
const manager = new window.vscIPyWidgets.WidgetManager(kernel, here, loader, () => {}, {});
await manager.set_state(STATE);
const model = await manager.get_model(VIEW.model_id);
await manager.display_view(null, await manager.create_view(model), { node: here });
</script>
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and prints nothing."""

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A web site of one page for each manager: its address."""
    folder = tmp_path_factory.mktemp("managers")
    for name, package in PACKAGES.items():
        packed = subprocess.run(
            ["npm", "pack", "--silent", package], cwd=folder, capture_output=True, text=True
        )
        assert packed.returncode == 0, packed.stderr
        with tarfile.open(folder / packed.stdout.strip()) as archive:
            archive.extractall(folder, filter="data")
        (folder / "package").rename(folder / name)
    # The same file as on the content network for npm, from which Colab loads it.
    (folder / "amd").mkdir()
    anywidget = Path(sys.prefix) / "share" / "jupyter" / "nbextensions" / "anywidget" / "index.js"
    shutil.copyfile(anywidget, folder / "amd" / "anywidget.js")

    random = np.random.default_rng(0)
    attn = random.random((2, 3, 17, 17), np.float32)
    attn /= attn.sum(-1, keepdims=True)
    picture = Image.fromarray(random.integers(0, 255, (64, 64, 3), np.uint8))
    shown = {"explorer": explorer.explore(picture, attn, (4, 4)), "upload": upload_box(None, None)}
    for what, widget in shown.items():
        saved = dependency_state([widget], drop_defaults=False)
        state = {"version_major": 2, "version_minor": 0, "state": saved}
        view = {"version_major": 2, "version_minor": 0, "model_id": widget.model_id}
        for name, page in {"html": HTML, "vscode": VSCODE}.items():
            for key, value in {"STATE": state, "VIEW": view}.items():
                page = page.replace(key, json.dumps(value).replace("</", "<\\/"))
            place = folder / f"{name}-{what}.html"
            place.write_text(f"<!doctype html><body>{page}", encoding="utf-8")
    handler = functools.partial(Quiet, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with contextlib.closing(server.socket):
        yield f"http://127.0.0.1:{server.server_port}", attn
        server.shutdown()


@pytest.mark.parametrize("manager", ["html", "vscode"])
def test_the_explorer_lives_under_this_manager(chromium, site, manager):
    address, attn = site
    with opened(chromium, f"{address}/{manager}-explorer.html", allowed=(address,)) as page:
        shown = Explorer(page)
        before = shown.strongest()
        expected = attn[-1].mean(0)[0, 1:].reshape(4, 4)
        assert before[0][0] == np.unravel_index(expected.argmax(), (4, 4))
        stage = shown.panel().locator(".vx-stage")
        stage.hover(position={"x": 5, "y": 5})
        expected = attn[-1].mean(0)[1, 1:].reshape(4, 4)
        assert shown.strongest()[0][0] == np.unravel_index(expected.argmax(), (4, 4))
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"manager-{manager}.png")


@pytest.mark.parametrize("manager", ["html", "vscode"])
def test_the_upload_box_refuses_a_large_file_under_this_manager(chromium, site, manager):
    address, _ = site
    with opened(chromium, f"{address}/{manager}-upload.html", allowed=(address,)) as page:
        page.get_by_text(f"It may have up to {MOST_MB} MB").wait_for(timeout=60_000)
        page.get_by_label("Choose a picture").set_input_files(
            {"name": "large.jpg", "mimeType": "image/jpeg", "buffer": b"x" * 12_345_678}
        )
        page.get_by_text("large.jpg has 12.4 MB, and Jupyter takes at most 10 MB").wait_for()
