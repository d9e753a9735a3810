"""Writes the live page: `python -m course live`.

A folder of static files, and the same in one HTML file that opens from the disk. No bundler: the
folder is a copy, and the one file holds the same modules under the same names (an import map).
"""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from vit_helpers import images, plots
from vit_helpers.errors import CourseError
from vit_helpers.widgets import explorer

from .. import runner
from . import export

HERE = Path(__file__).parent
RUNTIME = "onnxruntime-web@1.30.0"  # MIT
RUNTIME_FILES = {
    # name in the page: (name in the package, SHA-256)
    "ort.mjs": (
        "package/dist/ort.wasm.bundle.min.mjs",
        "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    ),
    "ort.wasm": (
        "package/dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
MODULES = ("app", "engine", "maps", "picture", "resample", "state", "tour", "views")
CLOSE_ENOUGH = 1e-3  # of the graphs to the model in PyTorch, in probabilities and attention
LARGEST_MEGABYTES = 60  # of graphs: beyond that a browser's visitor would wait too long


def build(folder: Path, one_file: Path | None = None, model_folder: Path | None = None) -> int:
    """Write the page. Returns 0.

    Args:
        folder: Where the static files go; what is there is replaced.
        one_file: Where the page goes as one file; `None` for none.
        model_folder: A folder of `save_pretrained` with a small ViT; `None` for the kit's model.

    Raises:
        CourseError: If the model is none that the page can run, or npm cannot get the runtime.
    """
    from vit_helpers import offline_kit

    model_folder = Path(model_folder or offline_kit.KIT / "quarter")
    model, processor = load(model_folder)
    photos = sorted((offline_kit.KIT / "photos").glob("*.jpg"))
    files, half = exact_graphs(model, processor, photos)
    total = sum(graph.ByteSize() for graph in files.values()) / 1e6
    if total > LARGEST_MEGABYTES:
        raise CourseError(
            f"This model takes {total:.0f} MB; the live page takes {LARGEST_MEGABYTES} MB at most."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    runtime = fetch_runtime()
    # No server is asked to pack anything: the page unpacks it.
    runtime["ort.wasm.gz"] = gzip.compress(runtime.pop("ort.wasm"), 6, mtime=0)
    for name, content in (runtime | export.packed(files, half)).items():
        (folder / name).write_bytes(content)
    for photo in photos:
        shutil.copy(photo, folder / photo.name)
    tables = [plots.colour_table(name).tobytes() for name in explorer.COLOURS]
    (folder / "colours.bin").write_bytes(b"".join(tables))
    spec = describe(model, processor, model_folder.name, photos, list(files)) | {"half": half}
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    for name in MODULES:
        shutil.copy(HERE / f"{name}.js", folder)
    for name in ("explorer.js", "explorer.css"):
        shutil.copy(explorer.HERE / name, folder)
    for name in ("live.css", "index.html"):
        shutil.copy(HERE / name, folder)
    print(f"{folder}: {megabytes(folder)}")
    if one_file:
        one_file.write_text(as_one_file(folder), encoding="utf-8")
        print(f"{one_file}: {megabytes(one_file)}")
    return 0


def megabytes(path: Path) -> str:
    """The size of a file or of all files in a folder, in words."""
    files = path.iterdir() if path.is_dir() else [path]
    return f"{sum(f.stat().st_size for f in files) / 1e6:.1f} MB"


def load(folder: Path):
    """`(model, processor)` of a folder of `save_pretrained`."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    try:
        model = AutoModelForImageClassification.from_pretrained(
            folder, attn_implementation="eager", local_files_only=True, use_safetensors=True
        )
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise CourseError(
            f"{str(folder)!r} is no image classifier of save_pretrained: {first}"
        ) from None
    return model.eval().float(), processor


def exact_graphs(model, processor, photos: list[Path]) -> tuple[dict, bool]:
    """The graphs with weights of 16 bits; of 32 where 16 would change what the page shows.

    Returns `(graphs by name, whether their weights have 16 bits)`.
    """
    import numpy as np
    import torch

    pixels = images.to_pixels([images.load_image(p) for p in photos], processor)
    with torch.inference_mode():
        expected = model(pixel_values=pixels, output_attentions=True)
    for half in (True, False):
        files = export.graphs(model, half)
        run, worst = export.Runner(files), 0.0
        for i in range(len(photos)):
            logits, attention, _ = run(pixels[i : i + 1].numpy())
            shares = torch.from_numpy(logits[-1]).softmax(-1) - expected.logits[i].softmax(-1)
            maps = attention - np.stack([layer[i].numpy() for layer in expected.attentions])
            worst = max(worst, float(shares.abs().max()), float(np.abs(maps).max()))
        if worst <= CLOSE_ENOUGH:
            bits = 16 if half else 32
            print(f"graphs with weights of {bits} bits: off from PyTorch by {worst:.0e} at most")
            return files, half
    raise CourseError(f"The graphs answer differently from the model: by {worst:.3f}.")


def describe(model, processor, name: str, photos: list[Path], files: list[str]) -> dict:
    """What the page has to know of the model."""
    config = model.config
    if getattr(processor, "do_center_crop", False) or not processor.do_resize:
        raise CourseError("The live page needs a processor that resizes and does not crop.")
    resample = int(processor.resample)
    if resample not in (2, 3):
        raise CourseError(f"The live page has no resampling {processor.resample!r}.")
    height, width = images.model_size(processor)
    rows, columns = height // config.patch_size, width // config.patch_size
    tokens = rows * columns + 1
    return {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "width": config.hidden_size,
        "patch": config.patch_size,
        "classes": [config.id2label[i] for i in range(config.num_labels)],
        "input": {
            "width": width,
            "height": height,
            "resample": resample,
            "factor": processor.rescale_factor if processor.do_rescale else 1,
            "mean": list(processor.image_mean) if processor.do_normalize else [0, 0, 0],
            "std": list(processor.image_std) if processor.do_normalize else [1, 1, 1],
        },
        "maps": {
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "tokens": tokens,
            "special": 1,
            "rows": rows,
            "columns": columns,
            "extras": [{"name": "rollout", "queries": tokens, "relative": False}],
        },
        "blocks": [file for file in files if file.startswith("block")],
        "photos": [{"name": photo.stem.replace("_", " "), "file": photo.name} for photo in photos],
        "colours": explorer.COLOURS,
        "opacity": plots.OPACITY,
    }


def fetch_runtime() -> dict[str, bytes]:
    """The files of ONNX Runtime Web, from npm, once; their sums are checked."""
    cache = runner.BUILD / "npm"
    package = cache / (RUNTIME.replace("@", "-") + ".tgz")
    if not package.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", RUNTIME, "--silent", "--pack-destination", str(cache)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except FileNotFoundError:
            raise CourseError(f"The live page needs npm, to get {RUNTIME}.") from None
        except subprocess.SubprocessError as error:
            said = (getattr(error, "stderr", "") or str(error)).strip()
            raise CourseError(f"npm did not get {RUNTIME}: {said}") from None
    found = {}
    with tarfile.open(package) as archive:
        for name, (member, digest) in RUNTIME_FILES.items():
            content = archive.extractfile(member).read()  # type: ignore[union-attr]
            if hashlib.sha256(content).hexdigest() != digest:
                package.unlink()
                raise CourseError(f"{member} of {RUNTIME} is not the file that it should be.")
            found[name] = content
    return found


def as_one_file(folder: Path) -> str:
    """The page with everything inside."""
    page = (folder / "index.html").read_text(encoding="utf-8")

    def packed(content: bytes) -> str:
        return base64.b64encode(content).decode()

    def style(match) -> str:
        return f"<style>\n{(folder / match[1]).read_text(encoding='utf-8')}</style>"

    page = re.sub(r'<link rel="stylesheet" href="(.+?)">', style, page)
    modules = [f"{name}.js" for name in (*MODULES, "explorer")] + ["ort.mjs"]
    for name in modules:
        address = f"data:text/javascript;base64,{packed((folder / name).read_bytes())}"
        page = page.replace(f'"./{name}"', f'"{address}"')
    spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
    graphs = ["patches.onnx", *spec["blocks"], "head.onnx"]
    assets = ["spec.json", "colours.bin", "ort.wasm.gz", "weights.bin", *graphs]
    assets += [photo["file"] for photo in spec["photos"]]
    scripts = "\n".join(
        f'<script type="text/plain" data-asset="{name}">'
        f"{packed((folder / name).read_bytes())}</script>"
        for name in assets
    )
    return page.replace("<!-- assets -->", scripts)
