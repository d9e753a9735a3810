"""`python -m vit_helpers doctor`: one page on what will and will not work on this machine."""

import os
import platform
import shutil
import sys
import textwrap
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .. import cache, offline_kit, resources, runtime
from ..errors import CourseError

OLDEST_PYTHON = (3, 10)
MEMORY_GIB = 4.0  # the largest notebook in the quick profile, and room for the rest
MARKS = {"ok": "ok  ", "note": "note", "fail": "FAIL"}


@dataclass(frozen=True)
class Line:
    """One finding: `ok`, `note` (something is less than it could be) or `fail`; and the remedy."""

    state: str
    topic: str
    text: str
    fix: str = ""


def examine() -> list[Line]:
    """Look at everything, from Python up to whether a notebook could run now."""
    lines = [python(), *libraries()]
    if all(line.state != "fail" for line in lines):
        lines += [device(), processor()]
    lines += [memory(), widgets()]
    hub, kit, places, room = hub_line(), kit_line(), cache_lines(), disk()
    missing = [line for line in places if line.state != "ok"]
    return [*lines, room, hub, *places, kit, verdict(hub, kit, missing, room)]


def run() -> int:
    """Print the page. Returns 0, or 1 if a notebook could not run."""
    lines = examine()
    print(page(lines))
    return int(any(line.state == "fail" for line in lines))


def page(lines: list[Line]) -> str:
    """The findings as text, each with its remedy beneath."""
    width = max(len(line.topic) for line in lines)
    shown = []
    for line in lines:
        shown.append(f"{MARKS[line.state]}  {line.topic:<{width}}  {line.text}")
        if line.fix:
            indent = " " * (width + 8)
            shown += textwrap.wrap(
                f"-> {line.fix}",
                100,
                initial_indent=indent,
                subsequent_indent=indent + "   ",
                break_long_words=False,
            )
    return "\n".join(shown)


def python() -> Line:
    """Is this Python new enough?"""
    if sys.version_info[:2] >= OLDEST_PYTHON:
        return Line(
            "ok", "Python", f"{platform.python_version()} on {platform.platform(terse=True)}"
        )
    wanted = ".".join(map(str, OLDEST_PYTHON))
    return Line(
        "fail", "Python", platform.python_version(), f"install Python {wanted} or newer, then make"
    )


def libraries() -> list[Line]:
    """Is every library there, new enough, and does torch start?"""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("vit-helpers") or []]
    except metadata.PackageNotFoundError:
        return [Line("fail", "libraries", "the course is not installed", "pip install -e .")]
    bad = []
    for requirement in wanted:
        if requirement.marker:  # an extra, which no notebook needs
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            bad.append(f"{requirement} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            bad.append(f"{requirement} is needed, there is {version}")
    if bad:
        return [Line("fail", "libraries", "; ".join(bad), "pip install -e .")]
    names = ("torch", "torchvision", "transformers", "datasets")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    try:
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        # Such as two builds that do not fit together, or a library of CUDA that is not there.
        return [
            Line("fail", "libraries", str(error).splitlines()[0], "reinstall torch, torchvision")
        ]
    return [Line("ok", "libraries", versions)]


def device() -> Line:
    """Which device the notebooks would use, its memory, and whether it has bf16."""
    import torch

    chosen, precision = runtime.choose_device()
    if chosen.type == "cuda":
        free, total = torch.cuda.mem_get_info()
        bf16 = "bf16" if precision == torch.bfloat16 else "no bf16 in hardware, so fp16"
        text = f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        if free < 4 * 2**30:
            return Line("note", "GPU", f"{text}, {bf16}", "end other programs that use the GPU")
        return Line("ok", "GPU", f"{text}, {bf16}")
    if chosen.type == "mps":
        return Line("ok", "GPU", "Apple MPS, fp32")
    if shutil.which("nvidia-smi"):
        fix = "install the CUDA build of torch (https://pytorch.org), or update the driver"
        return Line("note", "GPU", f"torch {torch.__version__} cannot use the NVIDIA card", fix)
    fix = "nothing for VIT_PROFILE=quick; VIT_PROFILE=full wants a GPU (on Colab: Runtime, T4)"
    return Line("note", "GPU", "none, the notebooks use the CPU", fix)


def processor() -> Line:
    """The CPU: how many threads torch uses, and whether it has bf16."""
    import torch

    has = runtime.cpu_has_bf16()
    bf16 = "with bf16" if has else "without bf16 (that row of notebook 5 is left out)"
    return Line("ok", "CPU", f"{torch.get_num_threads()} of {os.cpu_count()} threads, {bf16}")


def memory() -> Line:
    """Is enough memory free for the largest notebook?"""
    import psutil

    free, total = (getattr(psutil.virtual_memory(), k) / 2**30 for k in ("available", "total"))
    text = f"{free:.1f} of {total:.1f} GiB free"
    if free >= MEMORY_GIB:
        return Line("ok", "memory", text)
    return Line("note", "memory", text, f"close other programs: {MEMORY_GIB:.0f} GiB are wanted")


def widgets() -> Line:
    """Can the interactive parts be shown?"""
    try:
        version = metadata.version("ipywidgets")
    except metadata.PackageNotFoundError:
        return Line("fail", "widgets", "ipywidgets is missing", "pip install ipywidgets")
    found = []
    for name, viewer in (
        ("jupyterlab", "JupyterLab"),
        ("notebook", "Notebook"),
        ("google.colab", ""),
    ):
        try:
            found.append(f"{viewer} {metadata.version(name)}".strip())
        except metadata.PackageNotFoundError:
            continue
    if "google.colab" in sys.modules or found or "VSCODE_PID" in os.environ:
        return Line("ok", "widgets", ", ".join([f"ipywidgets {version}", *found]))
    fix = "pip install jupyterlab, or open the notebooks in an editor that shows widgets"
    return Line("note", "widgets", f"ipywidgets {version}, but nothing here to show them in", fix)


def hub_line() -> Line:
    """Does the Hub answer within three seconds?"""
    if reason := cache.hub_answers():
        fix = (
            "nothing if all resources below are here or the kit is enough; else see to the network"
        )
        return Line("note", "Hub", reason, fix)
    return Line("ok", "Hub", "answers")


def cache_lines() -> list[Line]:
    """Which of the resources are on this machine, whole."""
    lines = []
    for name, row in resources.RESOURCES.items():
        if found := cache.find(name):
            lines.append(Line("ok", name, f"in {found}"))
        else:
            fix = "python -m vit_helpers prefetch"
            lines.append(Line("note", name, f"not here ({cache.size_in_words(row.size)})", fix))
    return lines


def disk() -> Line:
    """Is there room for what is missing?"""
    need = sum(row.size for n, row in resources.RESOURCES.items() if not cache.find(n))
    place = cache.places()[0]
    there = next(p for p in (place, *place.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:,.1f} GB free at {there}"
    if free >= need + cache.SPARE_BYTES:
        return Line("ok", "disk", text)
    fix = f"{need / 1e9:,.1f} GB are still to come: make room, or set VIT_CACHE to another disk"
    return Line("note", "disk", text, fix)


def kit_line() -> Line:
    """Is the offline kit whole?"""
    try:
        for name in offline_kit.checksums(resources.KIT):
            offline_kit.verify(name, resources.KIT)
    except CourseError as error:
        return Line("note", "kit", str(error))
    return Line("ok", "kit", f"whole, in {Path(resources.KIT)}")


def verdict(hub: Line, kit: Line, missing: list[Line], room: Line) -> Line:
    """Could a notebook run now, and from which source?"""
    wanted = runtime.read_choice("VIT_SOURCE", resources.SOURCES, "auto")
    profile = runtime.read_choice("VIT_PROFILE", runtime.PROFILES, "quick")
    how = f"VIT_SOURCE={wanted}, VIT_PROFILE={profile}"
    if wanted != "offline" and not missing:
        return Line("ok", "notebooks", f"run from the Hub's files on this machine ({how})")
    if wanted != "offline" and hub.state == room.state == "ok":
        return Line("ok", "notebooks", f"download what is missing, then run ({how})")
    if wanted == "hub":
        fix = "see the lines above, or set VIT_SOURCE=auto"
        return Line("fail", "notebooks", f"lack {', '.join(m.topic for m in missing)} ({how})", fix)
    if kit.state == "ok":
        return Line("ok", "notebooks", f"run from the offline kit ({how})")
    return Line("fail", "notebooks", f"have nothing to run from ({how})", "see the lines above")
