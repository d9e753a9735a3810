"""The live page in Chromium: the same numbers as PyTorch, and a page that holds.

Screenshots go to `build/screenshots`.
"""

import base64
import contextlib
import functools
import http.server
import io
import shutil
import threading

import numpy as np
import pytest
import torch
from browsing import FRAME_MS, SMALL_TEXT, Explorer, best_p95
from PIL import Image

from course import runner
from course.live import build, export
from vit_helpers import images, models, offline_kit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not runner.find_browser(), reason="no Chromium on this machine"),
]
SCREENSHOTS = runner.BUILD / "screenshots"
PHOTOS = sorted((offline_kit.KIT / "photos").glob("*.jpg"))
CLOSE = 1e-3
BYTE = 1 / 255


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the page in both forms: `live/` and `vit-live.html`."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("live")
    build.build(folder / "live", folder / "vit-live.html")
    return folder


@contextlib.contextmanager
def served(folder):
    """The address of a folder behind the plainest of servers."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def server(folder):
    with served(folder / "live") as address:
        yield address


@pytest.fixture(scope="module")
def model_and_processor():
    return build.load(offline_kit.KIT / "quarter")


@pytest.fixture(scope="module")
def run(model_and_processor):
    """The graphs with ONNX Runtime in Python."""
    return export.Runner(export.graphs(model_and_processor[0], half=True))


@contextlib.contextmanager
def opened(chromium, address, ready=True, script="", **kwargs):
    """The page, ready to be used. It may load from its own folder only, and nothing may fail.

    `script` runs before all others.
    """
    context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **kwargs})
    context.set_default_timeout(60_000)
    wrong = []

    def check(request):
        own = (
            address.rpartition("/")[0] if address.startswith("http") else address.partition("#")[0]
        )
        if not request.url.startswith((own, "data:", "blob:")):
            wrong.append(f"outside: {request.url}")

    context.on("request", check)
    page = context.new_page()
    page.add_init_script(script)
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda m: m.type == "error" and wrong.append(f"console: {m.text}"))
    page.goto(address)
    if ready:
        settle(page)
    yield page
    context.close()
    assert wrong == []


def settle(page):
    """Wait until the model has answered and everything is painted."""
    page.wait_for_function("() => document.body.dataset.state === 'ready' && live.explorer")
    frames = "() => new Promise((f) => requestAnimationFrame(() => requestAnimationFrame(f)))"
    page.evaluate(frames)


@pytest.fixture(scope="module")
def shared(chromium, server):
    with opened(chromium, server) as page:
        yield page


@pytest.fixture
def page(shared):
    """The page with the first photograph and nothing changed."""
    choose(shared, PHOTOS[0].stem)
    return shared


def choose(page, name):
    page.get_by_label(f"Photograph: {name.replace('_', ' ')}", exact=True).click()
    settle(page)


def give(page, name, content, kind="image/png"):
    """Choose a file, as a visitor does; returns what the page says is wrong with it."""
    page.locator("#file").set_input_files({"name": name, "mimeType": kind, "buffer": content})
    settle(page)
    return page.locator("#trouble").text_content()


def as_file(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def shares_of(page):
    return np.array(page.evaluate("() => Array.from(live.shares)"))


def maps_of(page):
    """All maps that the explorer holds: (layers, heads, tokens, tokens)."""
    code = """() => ["weights", "largest", "specials"].map((name) => {
        const { buffer } = live.maps[name];
        let text = "";
        for (let i = 0; i < buffer.byteLength; i += 32768)
            text += String.fromCharCode(...new Uint8Array(buffer.slice(i, i + 32768)));
        return btoa(text);
    })"""
    weights, largest, specials = map(base64.b64decode, page.evaluate(code))
    largest = np.frombuffer(largest, dtype="<f4").reshape(-1, 1)
    patches = np.frombuffer(weights, dtype=np.uint8).reshape(len(largest), -1) / 255 * largest
    rows = np.hstack((np.frombuffer(specials, dtype="<f4").reshape(len(largest), -1), patches))
    layers, heads = page.evaluate("() => [live.maps.layers, live.maps.heads]")
    return rows.reshape(layers, heads, -1, rows.shape[-1])


def pixels_of(path_or_picture, processor):
    return images.to_pixels(images.load_image(path_or_picture), processor)


# --- the same numbers --------------------------------------------------------------------------


def close(what, shares, maps):
    """The largest differences are small; they are printed, as a table for who wants to see it."""
    print(f"\n{what}: probabilities off by {abs(shares).max():.0e}, maps by {abs(maps).max():.0e}")
    assert abs(shares).max() < CLOSE and abs(maps).max() < BYTE


@pytest.mark.parametrize("photo", PHOTOS[:3], ids=lambda path: path.stem)
def test_answers_and_maps_equal_those_of_python(page, model_and_processor, run, photo):
    model, processor = model_and_processor
    choose(page, photo.stem)
    pixels = pixels_of(photo, processor)
    logits, attention, norms = run(pixels.numpy())
    with torch.inference_mode():
        torch_logits = model(pixel_values=pixels).logits[0]
    shares = shares_of(page)
    for expected in (torch.from_numpy(logits[-1]), torch_logits):
        expected = expected.softmax(-1).numpy()
        assert abs(shares - expected).max() < CLOSE
        assert np.array_equal(np.argsort(shares)[::-1][:5], np.argsort(expected)[::-1][:5])
    close(f"{photo.stem}, unchanged", shares - expected, maps_of(page) - attention)
    lens = page.evaluate(
        "() => live.lens.lines.map((l) => [l.name.textContent, l.value.textContent])"
    )
    for (name, share), row in zip(lens, torch.from_numpy(logits).softmax(-1), strict=True):
        if row.topk(2).values.diff().abs() > 2 * CLOSE:
            assert name == model.config.id2label[int(row.argmax())].split(",")[0]
        assert float(share.split()[0]) == pytest.approx(100 * float(row.max()), abs=0.15)
    found = np.array(page.evaluate("() => live.maps.norms.map((n) => Array.from(n))"))
    assert found == pytest.approx(norms, rel=CLOSE)


def test_rollout_equals_that_of_the_notebook(page, model_and_processor, run):
    from course.maps import rollout

    _, maps, _ = run(pixels_of(PHOTOS[0], model_and_processor[1]).numpy())
    expected = rollout(torch.from_numpy(maps)[None])[0]
    read = "(q) => Array.from(live.maps.read({ kind: '0' }, q, new Float32Array(live.maps.tokens)))"
    for query in (0, 1, 100):
        assert np.array(page.evaluate(read, query)) == pytest.approx(expected[query], abs=CLOSE)


class Changed:
    """The model of PyTorch with heads off, blocks skipped and patches taken away."""

    def __init__(self, model, heads=(), blocks=(), hidden=()):
        self.model, self.heads, self.blocks, self.hidden = model, heads, blocks, hidden

    def __call__(self, pixels):
        config = self.model.config
        size = config.hidden_size // config.num_attention_heads
        with contextlib.ExitStack() as stack:
            for layer, block in enumerate(models.blocks(self.model)):
                name = next(n for n in ("o_proj", "output.dense") if has(block.attention, n))
                projection = block.attention.get_submodule(name)
                off = [head for at, head in self.heads if at == layer]

                def without(module, inputs, off=off):
                    mixed = inputs[0].clone()
                    for head in off:
                        mixed[..., head * size : (head + 1) * size] = 0
                    return (mixed, *inputs[1:])

                stack.callback(projection.register_forward_pre_hook(without).remove)
                if layer in self.blocks:
                    stack.callback(block.register_forward_hook(skip).remove)
            drop = models.embeddings(self.model).register_forward_hook(self._drop)
            stack.callback(drop.remove)
            with torch.inference_mode():
                output = self.model(pixel_values=pixels, output_attentions=True)
        return output.logits[0].softmax(-1).numpy(), torch.cat(output.attentions).numpy()

    def _drop(self, module, inputs, tokens):
        keep = [i for i in range(tokens.shape[1]) if i - 1 not in self.hidden]
        return tokens[:, keep]


def skip(module, inputs, output):
    """A block hands on what it got; transformers 4.57 has a tuple around it."""
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]


def has(module, name):
    return name in dict(module.named_modules())


@pytest.mark.parametrize("photo", PHOTOS[:3], ids=lambda path: path.stem)
@pytest.mark.parametrize(
    "heads, blocks, hidden",
    [
        ([(11, 3)], [], []),
        ([(0, 0), (5, 7), (5, 8)], [], []),
        ([], [6], []),
        ([], [], range(60, 100)),
        ([(2, 1)], [9], [0, 195, 90, 91, 92]),
    ],
    ids=["late head", "three heads", "block", "patches", "all of it"],
)
def test_changes_equal_those_of_pytorch(page, model_and_processor, photo, heads, blocks, hidden):
    model, processor = model_and_processor
    choose(page, photo.stem)
    page.evaluate(
        """([heads, blocks, hidden]) => {
            for (const [l, h] of heads) live.changes.off[l * live.spec.maps.heads + h] = 1;
            for (const l of blocks) live.changes.skipped[l] = 1;
            for (const i of hidden) live.changes.hidden[i] = 1;
            live.changed();
        }""",
        [list(heads), list(blocks), list(hidden)],
    )
    settle(page)
    expected, attention = Changed(model, heads, blocks, hidden)(pixels_of(photo, processor))
    keep = [0, *(i + 1 for i in range(196) if i not in hidden)]
    what = f"{photo.stem}, heads {heads}, blocks {blocks} off, {len(hidden)} patches hidden"
    close(what, shares_of(page) - expected, maps_of(page)[:, :, keep][..., keep] - attention)
    page.locator("#reset").click()
    settle(page)
    expected, _ = Changed(model)(pixels_of(photo, processor))
    assert abs(shares_of(page) - expected).max() < CLOSE


# --- pictures of all kinds ---------------------------------------------------------------------


def drawn(mode, size=(301, 207)):
    """A picture with soft and hard edges, and an alpha channel that has all values."""
    generator = np.random.default_rng(0)
    x, y = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    layers = [x, y, 255 - x, (x + y) / 2]
    layers = [(a + generator.normal(0, 20, a.shape)).clip(0, 255).astype(np.uint8) for a in layers]
    rgba = Image.fromarray(np.stack(layers, axis=-1))
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def with_orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return as_file(drawn("RGB"), "JPEG", exif=exif, quality=95)


PICTURES = {
    "grey.jpg": as_file(drawn("L"), "JPEG"),
    "grey16.png": as_file(
        Image.fromarray(np.arange(300 * 200).reshape(200, 300).astype(np.uint16))
    ),
    "transparent.png": as_file(drawn("RGBA")),
    "palette.gif": as_file(drawn("P"), "GIF"),
    "tiny.png": as_file(drawn("RGB", (20, 17))),
    "wide.png": as_file(drawn("RGB", (900, 40))),
    "large.jpg": as_file(drawn("RGB", (3000, 2000)), "JPEG"),
    "photo.webp": as_file(drawn("RGB"), "WEBP", quality=90),
    **{f"turned{n}.jpg": with_orientation(n) for n in range(2, 9)},
}


@pytest.mark.parametrize("name", [*PICTURES, *(photo.name for photo in PHOTOS)])
def test_the_model_sees_what_load_image_gives(page, model_and_processor, name):
    processor = model_and_processor[1]
    content = PICTURES.get(name) or (offline_kit.KIT / "photos" / name).read_bytes()
    kind = {"jpg": "jpeg"}.get(name[-3:], name[-4:].strip("."))
    assert give(page, name, content, f"image/{kind}") == ""
    expected = images.unnormalise(pixels_of(content, processor), processor)[0]
    height, width = expected.shape[-2:]
    found = np.array(page.evaluate("() => Array.from(live.rgb)")).reshape(height, width, 3)
    difference = abs(found - 255 * expected.permute(1, 2, 0).numpy())
    assert difference.max() <= 1.01  # of 255; all but those with 16 bits came out equal
    assert difference.mean() < 0.3


def bomb():
    """A PNG of 100 million pixels in few bytes."""
    return as_file(Image.new("1", (10_000, 10_000)), optimize=True)


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("notes.txt", b"no picture at all", "not a picture that this browser can read"),
        ("cut.png", PICTURES["transparent.png"][:60], "not a picture"),
        ("empty.jpg", b"", "not a picture"),
        ("bomb.png", bomb(), "has 100 million pixels"),
        ("dot.png", as_file(drawn("RGB", (9, 9))), "less than one patch"),
        ("big.bmp", bytes(21_000_000), "larger than 20 MB"),
    ],
)
def test_what_is_no_picture_gives_a_sentence_and_the_page_lives(page, name, content, words):
    before = shares_of(page)
    said = give(page, name, content)
    assert name in said and words in said
    assert np.array_equal(shares_of(page), before)
    choose(page, PHOTOS[1].stem)
    assert page.locator("#trouble").is_hidden()
    assert not np.array_equal(shares_of(page), before)


# --- what a visitor does -------------------------------------------------------------------------


def switched(page):
    """Numbers of heads off, blocks skipped, patches hidden."""
    return tuple(page.evaluate("() => Object.values(live.changes.count)"))


def test_a_click_on_the_board_looks_or_switches(page):
    title = page.locator(".vx-title").first
    page.get_by_label("Layer 4, head 7: on", exact=True).click()
    settle(page)
    assert "Layer 4, head 7" in title.inner_text()
    assert switched(page) == (0, 0, 0)
    page.get_by_text("Click: switch it off or on").click()
    page.get_by_label("Layer 4, head 7: on, shown", exact=True).click()
    page.get_by_label("Layer 11, head 0: on", exact=True).click()
    page.get_by_label("Skip block 3", exact=True).click()
    settle(page)
    assert switched(page) == (2, 1, 0)
    assert "(off)" in title.inner_text()
    said = page.locator("#changes").inner_text()
    assert said.startswith("With 2 heads off, 1 block skipped: ") and "points" in said
    assert page.locator("#top small").first.inner_text().endswith("%")
    page.screenshot(path=SCREENSHOTS / "live-changed.png", full_page=True)
    page.locator("#reset").click()
    settle(page)
    assert switched(page) == (0, 0, 0)
    assert page.locator("#changes").inner_text() == ""
    page.get_by_text("Click: look at it").click()


def test_the_brush_hides_and_shows_patches(page):
    box = page.locator("#stage").bounding_box()

    def at(row, column):
        return box["x"] + (column + 0.5) * box["width"] / 14, box["y"] + (row + 0.5) * (
            box["height"] / 14
        )

    page.get_by_label("Brush size").select_option("3")
    page.mouse.move(*at(5, 5))
    page.mouse.down()
    page.mouse.move(*at(5, 8), steps=6)
    page.mouse.up()
    settle(page)
    assert switched(page) == (0, 0, 18)
    hidden = np.array(page.evaluate("() => Array.from(live.changes.hidden)")).reshape(14, 14)
    assert hidden[4:7, 4:10].all()
    page.get_by_text("Show again").click()
    page.get_by_label("Brush size").select_option("1")
    page.mouse.click(*at(5, 5))
    settle(page)
    assert switched(page) == (0, 0, 17)
    page.get_by_text("Hide patches").click()
    page.get_by_label("Brush size").select_option("5")
    page.mouse.move(*at(0, 0))
    page.mouse.down()
    for row in range(0, 14, 3):
        page.mouse.move(*at(row, 0))
        page.mouse.move(*at(row, 13), steps=14)
    page.mouse.up()
    settle(page)
    assert switched(page) == (0, 0, 195)  # one stays, or there would be no picture
    page.get_by_label("Brush size").select_option("3")


def test_only_the_strongest_patches_are_kept(page, model_and_processor, run):
    _, maps, _ = run(pixels_of(PHOTOS[0], model_and_processor[1]).numpy())
    page.evaluate("() => live.explorer.panels[0].choose({ kind: 'mean', layer: 11 })")
    page.locator("#keep").fill("10")
    settle(page)
    order = np.argsort(maps[11].mean(axis=0)[0, 1:])[::-1]
    kept = np.flatnonzero(np.array(page.evaluate("() => Array.from(live.changes.hidden)")) == 0)
    assert len(kept) == 10 and len(set(kept) & set(order[:10].tolist())) >= 9  # bytes may tie
    assert page.locator("#keep-count").inner_text() == "10 of 196 patches"
    page.locator("#keep-on").uncheck()
    settle(page)
    assert switched(page) == (0, 0, 0)


def test_the_keyboard_reaches_everything(page):
    page.locator("#stage").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):  # the first shows the middle
        page.keyboard.press(key)
    assert page.locator("#spoken").inner_text() == "row 9, column 9: shown"
    page.keyboard.press(" ")
    settle(page)
    hidden = page.evaluate("() => live.changes.hidden.indexOf(1)")
    assert switched(page)[2] == 9 and hidden == 7 * 14 + 7
    page.get_by_label("Layer 0, head 0", exact=False).focus()
    for key in ("ArrowRight", "ArrowDown", "x", "Enter"):
        page.keyboard.press(key)
    settle(page)
    assert page.evaluate("() => live.changes.off.indexOf(1)") == 12 + 1
    assert "Layer 1, head 1" in page.locator(".vx-title").first.inner_text()
    page.wait_for_timeout(900)  # a screen reader hears the answer when it rests
    said = page.locator("#spoken").inner_text()
    assert said.startswith("With 1 head off, 9 patches of 196 hidden: ")
    unreachable = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, a, summary')].filter(
            (e) => e.checkVisibility() && e.tabIndex < 0 && !e.closest('#heads')).length"""
    )
    assert unreachable == 0
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, select')].filter((e) =>
            !e.textContent.trim() && !e.ariaLabel && !e.labels?.length).length"""
    )
    assert nameless == 0


def test_a_link_brings_the_changes_back(page, chromium, server):
    choose(page, PHOTOS[2].stem)
    page.evaluate(
        """() => { live.switchHead(3, 4); live.switchBlock(7); live.stroke(100, true);
                   live.look(5, 6); }"""
    )
    settle(page)
    expected = shares_of(page)
    link = page.url
    assert f"photo={PHOTOS[2].stem}" in link and len(link) < 400
    with opened(chromium, link) as other:
        settle(other)
        assert switched(other) == (1, 1, 9)
        assert abs(shares_of(other) - expected).max() < 1e-6
        assert "Layer 5, head 6" in other.locator(".vx-title").first.inner_text()
        assert other.locator("#changes").inner_text().startswith("With 1 head off, 1 block")
    nonsense = f"{server}#heads=zzz&patches={'f' * 90}&map=9.99.99&norm=-1&photo=none"
    with opened(chromium, nonsense) as other:
        assert switched(other) == (0, 0, 0)


def test_the_tour_has_six_steps_and_can_be_left(page):
    page.get_by_text("Tour in six steps").click()
    titles = []
    for step in range(6):
        assert page.locator("#tour-step").inner_text() == f"Step {step + 1} of 6"
        titles.append(page.locator("#tour h2:visible").inner_text())
        assert page.evaluate("() => document.activeElement.tagName") == "H2"
        assert page.locator(".lit").count() == 1
        page.screenshot(path=SCREENSHOTS / f"live-tour-{step + 1}.png")
        page.locator("#tour-next").click()
        settle(page)
    assert len(set(titles)) == 6 and page.locator("#tour").is_hidden()
    assert switched(page)[2] == 36  # the last step has hidden the centre
    page.get_by_text("Tour in six steps").click()
    page.keyboard.press("Escape")
    assert page.locator("#tour").is_hidden() and page.locator(".lit").count() == 0


def test_pictures_are_dropped_and_pasted(page):
    transfer = """(name) => {
        const canvas = document.createElement("canvas");
        canvas.width = canvas.height = 64;
        canvas.getContext("2d").fillRect(0, 0, 64, 64);
        return new Promise((done) => canvas.toBlob((blob) => {
            const data = new DataTransfer();
            data.items.add(new File([blob], "black.png", { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            const event = name === "paste"
                ? new ClipboardEvent("paste", { ...options, clipboardData: data })
                : new DragEvent("drop", { ...options, dataTransfer: data });
            document.body.dispatchEvent(event);
            done();
        }));
    }"""
    for name in ("drop", "paste"):
        choose(page, PHOTOS[0].stem)
        page.evaluate(transfer, name)
        settle(page)
        assert page.evaluate("() => live.rgb.every((value) => value === 0)")
        assert "photo=" not in page.url


def test_a_picture_that_comes_before_the_model_is_the_one_that_is_shown(chromium, server):
    with opened(chromium, server, ready=False) as page:
        page.wait_for_function("() => globalThis.live")
        page.locator("#file").set_input_files(PHOTOS[2])
        settle(page)
        page.wait_for_timeout(500)
        assert page.locator("#trouble").text_content() == ""
        assert page.locator(".photo[aria-pressed=true]").count() == 0
        early = shares_of(page)
        choose(page, PHOTOS[2].stem)
        assert abs(shares_of(page) - early).max() < CLOSE


@pytest.mark.parametrize("gone", ["ort.wasm.gz", "weights.bin", "block-07.onnx", "spec.json"])
def test_a_file_of_the_page_that_is_missing_is_named(chromium, folder, tmp_path, gone):
    shutil.copytree(folder / "live", tmp_path / "live")
    (tmp_path / "live" / gone).unlink()
    with served(tmp_path / "live") as address:
        page = chromium.new_page()
        unhandled = []
        page.on("pageerror", lambda error: unhandled.append(str(error)))
        page.goto(address)
        page.wait_for_function("() => !document.getElementById('trouble').hidden")
        assert f"{gone} is missing" in page.locator("#trouble").text_content()
        assert unhandled == []
        page.close()


def test_every_float_of_16_bits_is_widened_exactly(shared):
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    wide = shared.evaluate(
        """async (bits) => {
            const { widened } = await import("./engine.js");
            return Array.from(new Float32Array(widened(Uint16Array.from(bits).buffer)));
        }""",
        halves.view(np.uint16).tolist(),
    )
    assert np.array_equal(np.array(wide, dtype=np.float32), halves.astype(np.float32))


def test_the_camera_or_a_sentence(chromium, server):
    with opened(chromium, server) as page:
        page.evaluate("() => (navigator.mediaDevices.getUserMedia = () => Promise.reject())")
        page.get_by_role("button", name="Camera").click()
        page.locator("#trouble:visible").wait_for()
        assert "camera is not there" in page.locator("#trouble").inner_text()
        page.evaluate(
            """() => {
                const canvas = document.createElement("canvas");
                canvas.width = canvas.height = 320;
                const pen = canvas.getContext("2d");
                setInterval(() => {
                    pen.fillStyle = "red";
                    pen.fillRect(0, 0, 320, 320);
                }, 30);
                navigator.mediaDevices.getUserMedia = async () => canvas.captureStream();
            }"""
        )
        page.get_by_role("button", name="Camera").click()
        page.get_by_text("Take the picture").click()
        settle(page)
        red, green, blue = page.evaluate("() => Array.from(live.rgb.slice(0, 3))")
        assert red > 200 and green < 60 and blue < 60
        assert page.locator("#trouble").is_hidden()


def test_a_browser_without_a_camera_gets_a_sentence(chromium, server):
    """A page from a plain http address of another machine is given no camera at all."""
    with opened(chromium, server) as page:
        page.evaluate("() => Object.defineProperty(navigator, 'mediaDevices', {})")
        page.get_by_role("button", name="Camera").click()
        page.locator("#trouble:visible").wait_for()
        assert "gives no camera to this page" in page.locator("#trouble").inner_text()
        choose(page, PHOTOS[1].stem)
        assert page.locator("#trouble").is_hidden()


def test_an_old_browser_gets_a_sentence(chromium, server):
    old = "WebAssembly.validate = () => false;"
    with opened(chromium, server, ready=False, script=old) as page:
        page.locator("#trouble:visible").wait_for()
        assert "needs WebAssembly with SIMD" in page.locator("#trouble").inner_text()


def test_without_workers_it_runs_beside_the_page(chromium, server):
    with opened(chromium, server, script="delete globalThis.Worker;") as page:
        assert page.locator("#top .name").first.inner_text()


# --- how fast ----------------------------------------------------------------------------------

FIRST_MS, PICTURE_MS, ROUNDS = 2000, 250, 3
# When a frame with an answer was painted, and one with all of its maps: since the page was asked
# for, in milliseconds.
WATCH = """
globalThis.painted = { answer: [], maps: [] };
const note = (what) => requestAnimationFrame(() =>
    setTimeout(() => painted[what].push(performance.now())));
addEventListener("DOMContentLoaded", () => {
    new MutationObserver(() => note("answer")).observe(
        document.getElementById("time"), { childList: true });
    new MutationObserver(() => document.body.dataset.state === "ready" && note("maps")).observe(
        document.body, { attributes: true, attributeFilter: ["data-state"] });
});
"""
ANOTHER = """async (name) => {
    const button = [...document.querySelectorAll(".photo")].find((b) => b.title === name);
    painted.answer = [];
    painted.maps = [];
    const start = performance.now();
    button.click();
    while (!painted.maps.length) await new Promise((done) => setTimeout(done, 5));
    return [painted.answer[0] - start, painted.maps[0] - start];
}"""


@pytest.mark.slow
def test_reach(chromium, server, tmp_path):
    """What the page promises; on a machine that does nothing else.

    Prints all figures. The best of three rounds is held to the promise: other programs on the
    machine only make it slower.
    """
    first, answers, maps = [], [], []
    for _ in range(ROUNDS):  # with nothing in the browser's cache
        with opened(chromium, server, script=WATCH) as page:
            assert not page.evaluate("() => crossOriginIsolated")  # so it has one thread
            page.wait_for_function("() => painted.maps.length")
            first.append(page.evaluate("() => painted.answer[0]"))
            names = [photo.stem.replace("_", " ") for photo in PHOTOS]
            took = np.array([page.evaluate(ANOTHER, name) for name in names])
            answers.append(np.median(took[:, 0]))
            maps.append(np.median(took[:, 1]))
    with opened(chromium, server) as page:
        p95 = best_p95(chromium, Explorer(page), tmp_path)

    def told(values):
        return ", ".join(f"{value:.0f}" for value in values)

    print(f"\nfirst answer after loading, ms: {told(first)} (at most {FIRST_MS})")
    print(f"a further picture, answer, median ms: {told(answers)} (at most {PICTURE_MS})")
    print(f"a further picture, with all maps, median ms: {told(maps)}")
    print(f"from pointer to painted frame, p95 ms: {p95:.1f} (at most {FRAME_MS})")
    assert min(first) <= FIRST_MS
    assert min(answers) <= PICTURE_MS
    assert p95 <= FRAME_MS


# --- forms and sizes -----------------------------------------------------------------------------


def test_one_file_works_from_the_disk(chromium, folder, page):
    expected = shares_of(page)
    with opened(chromium, (folder / "vit-live.html").as_uri()) as other:
        assert abs(shares_of(other) - expected).max() < 1e-6
        other.evaluate("() => live.switchHead(11, 0)")
        settle(other)
        assert other.locator("#changes").inner_text().startswith("With 1 head off")
        other.screenshot(path=SCREENSHOTS / "live-file.png", full_page=True)


def test_the_folder_from_the_disk_says_what_to_open(chromium, folder):
    address = (folder / "live" / "index.html").as_uri()
    context = chromium.new_context()
    page = context.new_page()
    page.goto(address)
    assert "open vit-live.html" in page.locator("#trouble").inner_text()
    context.close()


def test_a_phone_in_the_dark(chromium, server):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(chromium, server, color_scheme="dark", device_scale_factor=2, **phone) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate(SMALL_TEXT) == []
        page.screenshot(path=SCREENSHOTS / "live-phone.png", full_page=True)
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.locator("#theme").click()
        assert page.evaluate(ground) != dark
        stage = page.locator("#stage")
        stage.scroll_into_view_if_needed()
        stage.tap(position={"x": 100, "y": 80})
        settle(page)
        assert switched(page)[2] == 9


def test_sizes(folder):
    sizes = [path.stat().st_size for path in (folder / "live").iterdir()]
    assert sum(sizes) <= 30e6
    assert (folder / "vit-live.html").stat().st_size <= 30e6
    ours = (folder / "live").glob("*.js")
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in ours) <= 2000


def test_no_text_of_the_model_is_in_the_page():
    """Another model of save_pretrained may stand in the kit's place."""
    page = (build.HERE / "index.html").read_text(encoding="utf-8")
    assert "196" not in page and "12 " not in page


def test_a_model_that_the_page_cannot_run_is_refused(tmp_path):
    from transformers import ConvNextConfig, ConvNextForImageClassification

    from vit_helpers.errors import CourseError

    with pytest.raises(CourseError, match="is no image classifier"):
        build.build(tmp_path / "live", model_folder=tmp_path / "nothing")
    config = ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])
    with pytest.raises(CourseError, match="plain ViT"):
        export.graphs(ConvNextForImageClassification(config), half=True)


def test_another_model_may_stand_in_its_place(chromium, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = ViTConfig(
        **sizes,
        intermediate_size=32,
        image_size=40,
        patch_size=8,
        qkv_bias=False,
        id2label={0: "one", 1: "two", 2: "three"},
        initializer_range=0.3,
    )
    model = ViTForImageClassification(config)
    model.save_pretrained(tmp_path / "tiny")
    ViTImageProcessor(size={"height": 40, "width": 40}, resample=3).save_pretrained(
        tmp_path / "tiny"
    )
    build.build(tmp_path / "live", model_folder=tmp_path / "tiny")
    model, processor = build.load(tmp_path / "tiny")
    pixels = pixels_of(PHOTOS[0], processor)
    with served(tmp_path / "live") as address, opened(chromium, address) as page:
        expected, maps = Changed(model)(pixels)
        assert abs(shares_of(page) - expected).max() < CLOSE
        assert abs(maps_of(page) - maps).max() < BYTE
        page.evaluate("() => { live.switchHead(1, 1); live.stroke(0, true); }")
        settle(page)
        hidden = [0, 1, 5, 6]
        expected, _ = Changed(model, [(1, 1)], [], hidden)(pixels)
        assert abs(shares_of(page) - expected).max() < CLOSE
        assert page.locator("#blocks li").count() == 3
        assert "3 layers by 2 heads" in page.locator("#board").inner_text()
