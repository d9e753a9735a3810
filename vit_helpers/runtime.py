"""Device, precision, seed, profile and source of a notebook, decided once and shown in a banner.

The environment variables are read here and nowhere else:

| variable | values | default |
|---|---|---|
| `VIT_SOURCE` | `auto`, `hub`, `offline` | `auto` |
| `VIT_PROFILE` | `quick` (fits two CPU cores), `full` (published accuracy, on a GPU) | `quick` |
| `VIT_SEED` | a whole number from 0 | `0` |
| `VIT_BARS` | `on`, `off` (progress bars) | `on` |
| `VIT_PICTURES` | at most so many pictures of a split, to try `full` in minutes | all |
| `VIT_CACHE` | a folder with the resources, for a whole room | `~/.cache/vit-helpers` |

Those of the Hub's libraries are respected: `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`,
`HF_HUB_CACHE`, `HF_HOME`.
"""

import contextlib
import importlib.util
import os
import random
import re
import shutil
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from . import offline_kit, resources
from .errors import CourseError, old_names, one_of, show_sentences
from .resources import packages

if TYPE_CHECKING:
    import torch  # takes seconds, and the command line mostly does without

__getattr__ = old_names(__name__)

PROFILES = ("quick", "full")


@dataclass(frozen=True)
class Runtime:
    """What a notebook runs on."""

    device: "torch.device"  # CUDA, else Apple's MPS, else the CPU
    precision: "torch.dtype"  # for training and inference under autocast on this device
    source: str  # `hub` or `offline`
    profile: str  # `quick` or `full`
    seed: int  # of every random generator

    def pick(self, *, quick, full):
        """The value for the profile of this run, e.g. `rt.pick(quick=2, full=5)`."""
        return full if self.profile == "full" else quick

    def about(self, name: str) -> str:
        """What a resource is in this run, in words, e.g. `rt.about("cifar10")`."""
        return resources.get(name).about(self.source)

    def locate(self, name: str) -> str:
        """Path of a resource on this machine, whole and checked, or a `CourseError`.

        Args:
            name: `classifier` (a folder for `from_pretrained`), `cifar10` and `flowers102`
                (folders for `datasets.load_dataset`), `photo` (the sample picture), `photos` (a
                folder of sharp photographs), `heldout` (pictures with labels of the kit's
                classifier, which has not learnt from them), `my_folder` (a sub-folder a class).
        """
        if name in resources.KIT_FOLDERS:
            return str(offline_kit.verify(name))
        row = resources.get(name)
        if self.source == "offline":
            return str(row.twin_path)
        folder = resources.bring([name], settings(), tries=2)[name]
        return str(resources.files_of(name, folder)[0] if row.kind == "photo" else folder)


_current: Runtime | None = None
_forbidden_by_us = False  # whether HF_HUB_OFFLINE was set by `quiet`


def read_choice(variable: str, allowed: tuple[str, ...], default: str) -> str:
    """Value of an environment variable; raises `CourseError` if it is not an allowed one."""
    return one_of(variable, os.environ.get(variable, default), allowed)


def _read_number(variable: str, least: int, default: int | None) -> int | None:
    text = os.environ.get(variable)
    if text is None:
        return default
    if not re.fullmatch("[0-9]{1,10}", text) or not least <= int(text) < 2**32:
        raise CourseError(
            f"{variable} is {text!r}, but it must be a whole number from {least} to {2**32 - 1}."
        )
    return int(text)


def most_pictures() -> int | None:
    """Value of `VIT_PICTURES`, or `None`; raises `CourseError` if it is not a number from 1."""
    return _read_number("VIT_PICTURES", 1, None)


def what_is_asked_for() -> tuple[str, str, int]:
    """Source, profile and seed; raises `CourseError` if a `VIT_` variable is out of range."""
    read_choice("VIT_BARS", ("on", "off"), "on")
    most_pictures()
    wanted = read_choice("VIT_SOURCE", resources.SOURCES, "auto")
    profile = read_choice("VIT_PROFILE", PROFILES, "quick")
    return wanted, profile, _read_number("VIT_SEED", 0, 0) or 0


def settings() -> resources.Settings:
    """Where resources are looked for on this machine, and how they may be brought."""
    try:
        home = Path.home()
    except RuntimeError:  # a number for a user, as in some containers
        home = Path(tempfile.gettempdir())
    folders = [home / ".cache" / "vit-helpers"]
    if named := os.environ.get("VIT_CACHE"):
        try:
            folders.insert(0, Path(named).expanduser())
        except RuntimeError:
            raise CourseError(
                f"VIT_CACHE is {named!r}, but there is no such home folder: name another folder."
            ) from None
    of_hub = os.environ.get("HF_HOME") or home / ".cache" / "huggingface"
    forbidden = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return resources.Settings(
        folders=tuple(folders),
        endpoint=(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").strip().rstrip("/"),
        token=os.environ.get("HF_TOKEN", "").strip(),
        hub_cache=Path(os.environ.get("HF_HUB_CACHE") or Path(of_hub) / "hub"),
        offline=forbidden and not _forbidden_by_us,
        bar=bar,
    )


def seed_everything(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch (all devices)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def choose_device():
    """Return `(device, precision)`: the best device here and the number format it is fast in."""
    import torch

    if torch.cuda.is_available():
        torch.backends.cudnn.allow_tf32 = False  # would round patches to 10 bits
        native_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)  # a T4 emulates it
        return torch.device("cuda"), torch.bfloat16 if native_bf16 else torch.float16
    if torch.backends.mps.is_available():
        return torch.device("mps"), torch.float32
    return torch.device("cpu"), torch.bfloat16 if cpu_has_bf16() else torch.float32


# What multiplies such numbers in hardware, as torch names it: AMX, AVX-512, VNNI, units of ARM.
UNITS = {"bf16": ["amx_bf16", "avx512_bf16", "bf16"]}
UNITS["int8"] = ["amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "dot"]


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 numbers in hardware."""
    # `torch.ops.mkldnn._is_mkldnn_bf16_supported()` says yes to AVX-512 without bf16, too.
    return any(map(cpu_abilities().get, UNITS["bf16"]))


def cpu_has_int8() -> bool:
    """Whether this CPU multiplies bytes in hardware. Torch before 2.9 cannot tell: counts as no.

    Without, int8 is little faster than fp32, and sums of unsigned and signed bytes can overflow.
    """
    return any(map(cpu_abilities().get, UNITS["int8"]))


def cpu_abilities() -> dict:
    """What this CPU has in hardware, as torch names it; empty where torch is too old to tell."""
    import torch

    return getattr(torch.cpu, "get_capabilities", dict)()


def missing_compiler(device) -> str:
    """What `torch.compile` lacks on a device, and how to get it; an empty text if nothing."""
    if device.type == "cuda":
        triton = importlib.util.find_spec("triton")
        return "" if triton else "torch.compile needs Triton: pip install triton"
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "cl"))
    found = any(shutil.which(name) for name in names)
    return "" if found else "torch.compile needs a C++ compiler: install g++ or clang"


def start(*needs: str) -> Runtime:
    """Decide device, source and profile, bring what a notebook needs, and print the banner.

    Args:
        needs: Names of the resources that this notebook uses (see `resources.RESOURCES`).

    Raises:
        CourseError: If an environment variable has a value that is not allowed, or if
            `VIT_SOURCE=hub` and a resource cannot be downloaded.
    """
    global _current
    show_sentences()
    packages.prepare()
    wanted, profile, seed = what_is_asked_for()
    source, notice = choose_source(wanted, needs)
    quiet(offline=source == "offline")
    seed_everything(seed)
    device, precision = choose_device()
    _current = Runtime(device, precision, source, profile, seed)
    print(banner(_current) + notice)
    return _current


def choose_source(wanted: str, needs: tuple[str, ...]) -> tuple[str, str]:
    """Bring the resources of a notebook here; returns `(source, notice)` for the reader.

    `auto` takes what is cached, else the Hub if it answers within three seconds and delivers, else
    the offline kit.
    """
    if wanted == "offline":
        return "offline", ""
    try:
        resources.bring(needs, settings(), tries=2 if wanted == "hub" else 1)
        reason = "" if needs or wanted == "hub" else resources.hub_answers(settings())
    except CourseError as error:
        if wanted == "hub":
            raise
        reason = getattr(error, "reason", str(error).rstrip("."))
    if not reason:
        return "hub", ""
    return "offline", (
        f"\nNOTE: {reason}. So this notebook uses the offline kit: a small model and drawn "
        "pictures. The steps are the same; the figures differ from the published ones. To try "
        "again, run this cell again."
    )


def current() -> Runtime:
    """The runtime of this notebook; raises `CourseError` before `start()`."""
    if _current is None:
        raise CourseError("Run the set-up cell at the top first: rt = runtime.start().")
    return _current


@contextlib.contextmanager
def override(rt: Runtime | None):
    """Within the block, `current()` is this runtime, or none has been started."""
    global _current
    before, _current = _current, rt
    try:
        yield
    finally:
        _current = before


def banner(rt: Runtime) -> str:
    """Three lines: the machine, where the resources come from, and the libraries' versions."""
    import torch

    is_card = rt.device.type == "cuda"
    device = torch.cuda.get_device_name() if is_card else rt.device.type.upper()
    precision = str(rt.precision).removeprefix("torch.")
    libraries = ("torch", "torchvision", "transformers", "datasets")
    versions = " · ".join(f"{lib} {version(lib).split('+')[0]}" for lib in libraries)
    origin = {"hub": "the Hugging Face Hub", "offline": "the offline kit"}[rt.source]
    return (
        f"device {device} · precision {precision} · profile {rt.profile} · seed {rt.seed}\n"
        f"source {rt.source}: models and pictures come from {origin}\n{versions}"
    )


def quiet(*, offline: bool) -> None:
    """Switch off notices that are not for a learner; where `offline`, forbid Hub requests too."""
    # The libraries read the environment as they are imported; afterwards they have to be told.
    global _forbidden_by_us
    if offline and not os.environ.get("HF_HUB_OFFLINE"):
        os.environ["HF_HUB_OFFLINE"], _forbidden_by_us = "1", True
    elif not offline and _forbidden_by_us:
        os.environ.pop("HF_HUB_OFFLINE", None)
        _forbidden_by_us = False
    _mend_endpoint()
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = offline or settings().offline
    _keep_datasets_cache_writable()
    # Reading what is on this machine lasts a moment, and a download of the course has its own bar.
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    wordy = "TRANSFORMERS_VERBOSITY" in os.environ  # the learner wants to read them
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if "transformers" in sys.modules:
        sys.modules["transformers"].utils.logging.disable_progress_bar()
        if not wordy:
            sys.modules["transformers"].utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    import pandas as pd

    # The text form of a table is compared under test: no line breaks that depend on its width.
    pd.set_option("display.width", 240, "display.max_columns", 30)


def _mend_endpoint() -> None:
    """With an address that is none, `load_dataset` fails even for a folder of this machine."""
    given = os.environ.get("HF_ENDPOINT")
    if given is None:
        return
    try:
        parts = urlsplit(given.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    os.environ["HF_ENDPOINT"] = given.strip() if good else "https://huggingface.co"
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_ENDPOINT = os.environ["HF_ENDPOINT"]


def _keep_datasets_cache_writable() -> None:
    """`load_dataset` writes a copy of what it reads: where its folder is read-only, elsewhere."""
    named = None
    try:
        home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
        named = Path(os.environ.get("HF_DATASETS_CACHE") or home / "datasets")
        folder = named.expanduser().absolute()  # it cannot read from a relative one
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # it cannot be written, or there is no home
        folder = Path(tempfile.mkdtemp(prefix="vit-datasets-"))
    if folder != named:
        os.environ["HF_DATASETS_CACHE"] = str(folder)
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_DATASETS_CACHE = folder


def synchronise(device) -> None:
    """Wait until the device has finished: a GPU returns before its work is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def bar(iterable=None, desc: str = "", **kwargs):
    """A tqdm bar over `iterable`, silent under test and where `VIT_BARS=off`."""
    from tqdm.auto import tqdm

    def once(items):  # tqdm asks twice for an iterator, and a loader would start workers twice
        yield from items

    if iterable is not None:
        kwargs.setdefault("total", len(iterable) if hasattr(iterable, "__len__") else None)
        iterable = once(iterable)
    silent = os.environ.get("VIT_BARS", "on") != "on" or "PYTEST_CURRENT_TEST" in os.environ
    return tqdm(iterable, desc=desc, disable=silent, leave=False, **kwargs)
