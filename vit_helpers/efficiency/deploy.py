"""Deployment: one ONNX file that takes a photograph and gives names, and a test without torch."""

import importlib.util
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path

from ..errors import CourseError
from .engines import write_whole

SCRIPT = Path(__file__).with_name("standalone.py")
TIMEOUT_SECONDS = 120

ZERO_ONE = [0.0] * 3, [1.0] * 3  # mean and deviation that change nothing

# What standalone.py imports. Their own requirements are looked up.
PACKAGES = ("onnxruntime", "numpy", "pillow")


def export_deployable(model, processor, source: str | Path, path: str | Path, k: int = 5) -> Path:
    """Put preprocessing and class names around an exported network, in one file.

    Input `picture`: uint8 (height, width, 3), RGB, any size. Outputs `names` (k,) as text and
    `probabilities` (k,), best first. Resizing, scaling and normalising are those of the processor.

    Args:
        model: The classifier, for the names of its classes.
        processor: Its image processor.
        source: An ONNX file from `pixel_values` to `logits`, in any precision.
        path: Where to write. The file is there whole or not at all.
        k: How many classes to name; fewer if the model has fewer.

    Raises:
        CourseError: If there is no such source, its opset is too old, or the processor resizes
            in a way that the format does not know.
    """
    import onnx

    if not Path(source).is_file():
        raise CourseError(f"There is no file {Path(source).name!r}: run the export cell first.")
    network = onnx.load(str(source))
    names = [model.config.id2label[i] for i in range(model.config.num_labels)]
    graph = network.graph
    before = _before(processor)
    after = _after(names, min(k, len(names)))
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
    opset = next(o.version for o in network.opset_import if o.domain in ("", "ai.onnx"))
    if opset < 18:
        raise CourseError(f"{Path(source).name!r} has opset {opset}; smooth resizing needs 18.")
    return write_whole(Path(path), lambda part: onnx.save(result, part))


def _before(processor):
    """From `picture` (H, W, 3) to `pixel_values` (1, 3, h, w): what the processor does."""
    import numpy as np
    from onnx import numpy_helper, parser

    modes = {2: ("linear", 0.0), 3: ("cubic", -0.5)}  # PIL's numbers; its cubic has a = -0.5
    number = int(processor.resample)
    size = {side: length for side, length in dict(processor.size).items() if length}
    if number not in modes:
        raise CourseError(f"The processor resizes with method {number}: only 2 and 3 are known.")
    if set(size) != {"height", "width"} or getattr(processor, "do_center_crop", False):
        raise CourseError("The processor crops: only one that resizes to one size is known.")
    mode, a = modes[number]
    height, width = int(size["height"]), int(size["width"])
    how = f'mode = "{mode}", antialias = 1, cubic_coeff_a = {a}'
    how += ', coordinate_transformation_mode = "half_pixel"'
    # First the width, then the height, and bytes in between: so do torchvision and PIL.
    graph = parser.parse_graph(f"""
        before (uint8[H, W, 3] picture) => (float[1, 3, {height}, {width}] pixel_values) {{
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
        }}
    """)
    column = (1, 3, 1, 1)
    scale = processor.rescale_factor if processor.do_rescale else 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ZERO_ONE
    constants = {
        "pre_axes": np.array([0], np.int64),
        "pre_width": np.array([width], np.int64),
        "pre_height": np.array([height], np.int64),
        "pre_least": np.array(0, np.float32),
        "pre_most": np.array(255, np.float32),
        "pre_scale": np.array(scale, np.float32),
        "pre_mean": np.array(mean, np.float32).reshape(column),
        "pre_std": np.array(std, np.float32).reshape(column),
    }
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return graph


def _after(names: list[str], k: int):
    """From `logits` (1, classes) to the `names` and `probabilities` of the best k classes."""
    import numpy as np
    from onnx import numpy_helper, parser

    graph = parser.parse_graph(f"""
        after (float[1, {len(names)}] logits) => (string[{k}] names, float[{k}] probabilities) {{
            post_all = Softmax<axis = -1>(logits)
            post_flat = Squeeze(post_all, post_axes)
            probabilities, post_best = TopK(post_flat, post_k)
            names = Gather(post_labels, post_best)
        }}
    """)
    constants = {
        "post_axes": np.array([0], np.int64),
        "post_k": np.array([k], np.int64),
        "post_labels": np.array([name.encode() for name in names], dtype=object),
    }
    graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    return graph


@dataclass(frozen=True)
class StandaloneRun:
    """What a fresh process without torch answered.

    Attributes:
        answers: Lines `0.987 cat`, best first.
        seconds: From the start of Python to its end: the cold start, with the answer.
        memory_mb: The largest resident memory of the process; NaN outside Linux.
    """

    answers: list[str]
    seconds: float
    memory_mb: float


# Runs the script, then says how much memory it took. `-I -S` hides everything that is installed;
# only the one folder is added.
_START = """
import runpy, sys
folder, script = sys.argv[1:3]
sys.path.insert(0, folder)
sys.argv = sys.argv[2:]
runpy.run_path(script, run_name="__main__")
assert not {"torch", "transformers", "vit_helpers"} & set(sys.modules)
try:
    lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
except OSError:
    lines = []
print("peak", *[line.split()[1] for line in lines if line.startswith("VmHWM")], file=sys.stderr)
"""


def run_standalone(
    model: str | Path, picture: str | Path, script: str | Path = SCRIPT
) -> StandaloneRun:
    """Classify a picture in a fresh process that has numpy, PIL and onnxruntime, and no torch.

    Args:
        model: A file of `export_deployable`.
        picture: A picture file.
        script: What runs; by default `standalone.py`.

    Raises:
        CourseError: If the script fails; with its last line of error.
    """
    with tempfile.TemporaryDirectory(prefix="vit-standalone-") as folder:
        link_packages(Path(folder))
        command = [sys.executable, "-I", "-S", "-c", _START, folder, script, model, picture]
        start = time.perf_counter()
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=TIMEOUT_SECONDS,
        )
        seconds = time.perf_counter() - start
    errors = done.stderr.strip().splitlines()
    if done.returncode:
        raise CourseError(f"{Path(script).name} failed without torch: {errors[-1]}")
    peak = errors[-1].split()[1:]
    memory = 1024 * int(peak[0]) / 1e6 if peak else float("nan")
    return StandaloneRun(done.stdout.splitlines(), seconds, memory)


def link_packages(folder: Path) -> list[str]:
    """Make a folder that holds what standalone.py needs, and nothing else, as links.

    Returns:
        The names of the packages.
    """
    wanted, known = list(PACKAGES), []
    while wanted:
        name = wanted.pop()
        if name not in known:
            known.append(name)
            wanted += _requirements(name)
    modules = {"pillow": "PIL", "protobuf": "google"}
    for name in known:
        module = modules.get(name, name)
        place = importlib.util.find_spec(module)
        if place is None or not place.submodule_search_locations:
            raise CourseError(f"{name} is not installed: pip install {name}")
        found = Path(next(iter(place.submodule_search_locations)))
        _link(folder / module, found)
        libraries = found.with_name(f"{name}.libs")  # shared libraries of a wheel
        if libraries.is_dir():
            _link(folder / libraries.name, libraries)
    return sorted(known)


def _link(place: Path, folder: Path) -> None:
    if sys.platform == "win32":  # there a link needs rights that few have, and a junction none
        import _winapi

        _winapi.CreateJunction(str(folder), str(place))
    else:
        place.symlink_to(folder)


def _requirements(name: str) -> list[str]:
    """Names of the packages that a package always needs."""
    lines = [line for line in requires(name) or [] if ";" not in line]
    return [re.split(r"[^\w-]", line, maxsplit=1)[0].lower() for line in lines]
