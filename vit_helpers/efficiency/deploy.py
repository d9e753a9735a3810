"""Deployment: one ONNX file that takes a photograph and gives names, and a test without torch."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from ..errors import CourseError
from ..resources.files import written_whole

SCRIPT = Path(__file__).with_name("standalone.py")
PACKAGES = ("onnxruntime", "numpy", "PIL")  # what the script imports
TIMEOUT_SECONDS = 120
METHODS = {2: ("linear", 0.0), 3: ("cubic", -0.5)}  # PIL's numbers; its cubic has a = -0.5


def export_deployable(model, processor, source: str | Path, path: str | Path) -> Path:
    """Put preprocessing and class names around an exported network, in one file.

    Input `picture`: uint8 (height, width, 3), RGB, any size. Outputs `names` as text and
    `probabilities` of the five best classes, best first.

    `source` is an ONNX file from `pixel_values` to `logits`, in any precision. A processor that
    crops is refused. The file at `path` is there whole or not at all.
    """
    import onnx

    if (channels := getattr(model.config, "num_channels", 3)) != 3:
        raise CourseError(f"The model takes {channels} channels: only RGB with 3 is known here.")
    network = onnx.load(source)
    before, graph = _before(processor), network.graph
    after = _after([model.config.id2label[i] for i in range(model.config.num_labels)])
    nodes = [*before.node, *graph.node, *after.node]
    constants = [*before.initializer, *graph.initializer, *after.initializer]
    complete = onnx.helper.make_graph(nodes, "classify", before.input, after.output, constants)
    complete.value_info.extend(graph.value_info)
    result = onnx.helper.make_model(
        complete,
        opset_imports=network.opset_import,
        functions=network.functions,
        ir_version=network.ir_version,
    )
    with written_whole(Path(path)) as part:
        onnx.save(result, part)
    return Path(path)


def _before(processor):
    """From `picture` (H, W, 3) to `pixel_values` (1, 3, h, w): what the processor does."""
    number = int(processor.resample)
    size = {side: length for side, length in dict(processor.size).items() if length}
    if number not in METHODS:
        raise CourseError(f"The processor resizes with method {number}: only 2 and 3 are known.")
    resizes = processor.do_resize and set(size) == {"height", "width"}
    if not resizes or getattr(processor, "do_center_crop", False):
        raise CourseError("The processor crops, or keeps a size: only resizing to one is known.")
    mode, a = METHODS[number]
    height, width = int(size["height"]), int(size["width"])
    how = f'mode = "{mode}", antialias = 1, cubic_coeff_a = {a}'
    how += ', coordinate_transformation_mode = "half_pixel"'
    mean, std = (0, 0, 0), (1, 1, 1)
    if processor.do_normalize:
        mean, std = processor.image_mean, processor.image_std
    constants = {
        "pre_axes": ([0], "int64"),
        "pre_width": ([width], "int64"),
        "pre_height": ([height], "int64"),
        "pre_least": (0, "float32"),
        "pre_most": (255, "float32"),
        "pre_scale": (processor.rescale_factor if processor.do_rescale else 1, "float32"),
        "pre_mean": ([[[m]] for m in mean], "float32"),  # (3, 1, 1)
        "pre_std": ([[[s]] for s in std], "float32"),
    }
    # First the width, then the height, and bytes in between: so do torchvision and PIL.
    return _graph(
        f"""before (uint8[H, W, 3] picture) => (float[1, 3, {height}, {width}] pixel_values) {{
            pre_hwc = Cast<to = 1>(picture)
            pre_chw = Transpose<perm = [2, 0, 1]>(pre_hwc)
            pre_batch = Unsqueeze(pre_chw, pre_axes)
            pre_narrow = Resize<{how}, axes = [3]>(pre_batch, , , pre_width)
            pre_round1 = Round(pre_narrow)
            pre_byte1 = Clip(pre_round1, pre_least, pre_most)
            pre_small = Resize<{how}, axes = [2]>(pre_byte1, , , pre_height)
            pre_round2 = Round(pre_small)
            pre_byte = Clip(pre_round2, pre_least, pre_most)
            pre_scaled = Mul(pre_byte, pre_scale)
            pre_centred = Sub(pre_scaled, pre_mean)
            pixel_values = Div(pre_centred, pre_std)
        }}""",
        constants,
    )


def _after(names: list[str]):
    """From `logits` (1, classes) to the `names` and `probabilities` of the best five classes."""
    count, k = len(names), min(5, len(names))
    return _graph(
        f"""after (float[1, {count}] logits) => (string[{k}] names, float[{k}] probabilities) {{
            post_all = Softmax<axis = -1>(logits)
            post_flat = Squeeze(post_all, post_axes)
            probabilities, post_best = TopK(post_flat, post_k)
            names = Gather(post_labels, post_best)
        }}""",
        {
            "post_axes": ([0], "int64"),
            "post_k": ([k], "int64"),
            "post_labels": ([name.encode() for name in names], object),
        },
    )


def _graph(text: str, constants: dict):
    """A graph in ONNX's own notation, with its constants: name -> (value, type)."""
    import numpy as np
    from onnx import numpy_helper, parser

    graph = parser.parse_graph(text)
    for name, (value, kind) in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=kind), name))
    return graph


class StandaloneRun(NamedTuple):
    """What a fresh process without torch answered."""

    answers: list[str]  # lines "0.987 cat", best first
    seconds: float  # from the start of Python to its end: the cold start, with the answer
    memory_mb: float  # the largest resident memory; NaN outside Linux


# Runs the script, then says how much memory it took. `-I -S` hides all that is installed; the three
# packages are let in.
_START = """
import json, runpy, sys
from importlib.machinery import PathFinder

folders, packages = map(json.loads, sys.argv[1:3])

class Chosen:
    def find_spec(name, path=None, target=None):
        return PathFinder.find_spec(name, folders) if name in packages else None

sys.meta_path.append(Chosen)
sys.argv = sys.argv[3:]
runpy.run_path(sys.argv[0], run_name="__main__")
try:
    lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
except OSError:
    lines = []
print("peak", *[line.split()[1] for line in lines if line.startswith("VmHWM")], file=sys.stderr)
"""


def run_standalone(model: str | Path, picture: str | Path) -> StandaloneRun:
    """Classify a picture with a file of `export_deployable` in a fresh process without torch.

    Raises a `CourseError` if a package is not installed, or with the last line of what fails.
    """
    folders = []
    for name in PACKAGES:
        if (spec := importlib.util.find_spec(name)) is None or spec.origin is None:
            raise CourseError(f"{name} is not installed: pip install {name}")
        folders.append(str(Path(spec.origin).parents[1]))
    options = ["-I", "-S", "-c", _START, json.dumps(folders), json.dumps(PACKAGES)]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *options, str(SCRIPT), str(model), str(picture)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=TIMEOUT_SECONDS,
    )
    seconds = time.perf_counter() - start
    errors = done.stderr.strip().splitlines()
    if done.returncode:
        raise CourseError(f"{SCRIPT.name} failed without torch: {errors[-1]}")
    peak = errors[-1].split()[1:]
    memory = 1024 * int(peak[0]) / 1e6 if peak else float("nan")
    return StandaloneRun(done.stdout.splitlines(), seconds, memory)
