"""The live page in Chromium: the same numbers as PyTorch, and a page that holds.

Screenshots go to `build/screenshots`.
"""

import base64
import contextlib
import functools
import http.server
import io
import threading

import numpy as np
import pytest
import torch
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


@pytest.fixture(scope="module")
def server(folder):
    """The address of the folder behind the plainest of servers."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(folder / "live"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/"
        served.shutdown()


@pytest.fixture(scope="module")
def model_and_processor():
    return build.load(offline_kit.KIT / "quarter")


@pytest.fixture(scope="module")
def run(model_and_processor):
    """The graphs with ONNX Runtime in Python."""
    return export.Runner(export.graphs(model_and_processor[0], half=True))


@contextlib.contextmanager
def opened(chromium, address, ready=True, **kwargs):
    """The page, ready to be used. It may load from its own folder only, and nothing may fail."""
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
    page.get_by_label(f"Photograph: {name}", exact=True).click()
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
    assert abs(maps_of(page) - attention).max() < BYTE
    lens = page.evaluate(
        "() => live.lens.lines.map((l) => [l.name.textContent, l.value.textContent])"
    )
    for (name, share), row in zip(lens, torch.from_numpy(logits).softmax(-1), strict=True):
        if row.topk(2).values.diff().abs() > 2 * CLOSE:
            assert name == model.config.id2label[int(row.argmax())]
        assert float(share.split()[0]) == pytest.approx(100 * float(row.max()), abs=0.15)
    found = np.array(page.evaluate("() => live.maps.norms.map((n) => Array.from(n))"))
    assert found == pytest.approx(norms, rel=CLOSE)


def test_rollout_equals_that_of_the_notebook(page, model_and_processor, run):
    from vit_helpers import attention

    _, maps, _ = run(pixels_of(PHOTOS[0], model_and_processor[1]).numpy())
    expected = attention.rollout(torch.from_numpy(maps)[None])[0]
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
    assert abs(shares_of(page) - expected).max() < CLOSE
    keep = [0, *(i + 1 for i in range(196) if i not in hidden)]
    assert abs(maps_of(page)[:, :, keep][..., keep] - attention).max() < BYTE
    page.get_by_text("Back to the unchanged model").click()
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
