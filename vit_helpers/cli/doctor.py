"""`python -m vit_helpers doctor`: one page on what will and will not work on this machine."""

import os
import platform
import shutil
import sys
import tempfile
import textwrap
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from .. import offline_kit, resources, runtime
from ..errors import CourseError

OLDEST_PYTHON = (3, 10)
MEMORY_GIB = 4.0  # the largest notebook in the quick profile, and room for the rest
CONTROL_GROUPS = Path("/sys/fs/cgroup")  # Linux: what a container may use
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
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
        lines += [device(), *processor()]
    lines += [memory(), widgets(), *writing()]
    hub, kit, places, room = hub_line(), kit_line(), cache_lines(), disk()
    missing = [line for line in places if line.state != "ok"]
    lines += [room, *way_out(hub), hub, *places, kit]
    return [*lines, verdict(hub, kit, missing, room)]


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
        "fail",
        "Python",
        platform.python_version(),
        f"install Python {wanted} or newer, then the course again",
    )


def libraries() -> list[Line]:
    """Is every library there, new enough, and does torch start?"""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("vit-helpers") or []]
    except metadata.PackageNotFoundError:
        fix = "pip install -e . in the folder of the course"
        return [Line("fail", "libraries", "the course is not installed", fix)]
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
        fix = "pip install -r requirements.txt in the folder of the course"
        return [Line("fail", "libraries", "; ".join(bad), fix)]
    names = ("torch", "torchvision", "transformers", "datasets")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    try:
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        # Such as two builds that do not fit together, or a library of CUDA that is not there.
        return [
            Line(
                "fail",
                "libraries",
                str(error).splitlines()[0],
                "install torch and torchvision again, in one command and from one source",
            )
        ]
    return [Line("ok", "libraries", versions)]


def device() -> Line:
    """Which device the notebooks would use, whether it works, its memory, its number format."""
    import torch

    chosen, precision = runtime.choose_device()
    if chosen.type == "cuda":
        return _cuda(bf16=precision == torch.bfloat16)
    if chosen.type == "mps":
        return Line("ok", "GPU", "Apple MPS, fp32")
    if shutil.which("nvidia-smi"):
        if torch.version.cuda:
            fix = f"update the driver: this torch is built for CUDA {torch.version.cuda}"
        else:
            fix = "install the CUDA build of torch, see https://pytorch.org/get-started"
        return Line("note", "GPU", f"torch {torch.__version__} cannot use the NVIDIA card", fix)
    if sys.platform == "darwin" and platform.machine() == "arm64":
        fix = "update macOS and torch: MPS needs macOS 14 or newer"
        return Line("note", "GPU", "Apple's GPU cannot be used by this torch", fix)
    fix = "nothing for VIT_PROFILE=quick; VIT_PROFILE=full wants a GPU (on Colab: Runtime, T4)"
    return Line("note", "GPU", "none, the notebooks use the CPU", fix)


def _cuda(bf16: bool) -> Line:
    import torch

    name = torch.cuda.get_device_name()
    try:  # a card that this build has no programs for says so only when it computes
        float(torch.ones(2, device="cuda").sum())
    except RuntimeError as error:
        fix = "install a build of torch for this card, see https://pytorch.org/get-started"
        return Line("fail", "GPU", f"{name} does not compute: {str(error).splitlines()[0]}", fix)
    free, total = torch.cuda.mem_get_info()
    format_ = "bf16" if bf16 else "no bf16 in hardware, so fp16"
    text = f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free, {format_}"
    if free < 4 * 2**30:
        return Line("note", "GPU", text, "end other programs that use the GPU")
    return Line("ok", "GPU", text)


# What a CPU may have for 16 bits and for 8, by the names that torch gives them.
BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "bf16": "bf16"}
INT8 = {
    "amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX VNNI",
    "avx_vnni_int8": "AVX VNNI int8", "i8mm": "matrix products", "dot": "dot products",
}  # fmt: skip


def processor() -> list[Line]:
    """The CPU: its cores, and what it has in hardware for bf16 and int8."""
    import torch

    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    threads, cores = torch.get_num_threads(), usable_cores()
    text = f"{able.get('cpu_name') or platform.machine()}, {threads} threads on {cores:g} cores"
    fix = ""
    if threads > max(1, cores):
        fix = f"set OMP_NUM_THREADS={max(1, int(cores))}: more threads than cores slow each other"
    elif "OMP_NUM_THREADS" in os.environ and threads < int(cores):
        fix = "unset OMP_NUM_THREADS to use all cores"
    lines = [Line("note" if fix else "ok", "CPU", text, fix)]
    if not able:
        fix = "nothing, or a newer torch, which can tell"
        return [*lines, Line("note", "bf16, int8", "this torch cannot tell what the CPU has", fix)]
    parts, lacking = [], []
    for what, names in (("bf16", BF16), ("int8", INT8)):
        found = [words for name, words in names.items() if able.get(name)]
        parts.append(f"{what}: {' and '.join(found) or 'not in hardware'}")
        lacking += [] if found else [what]
    fix = f"nothing: in notebook 05, {' and '.join(lacking)} will gain little here"
    state = "note" if lacking else "ok"
    return [*lines, Line(state, "bf16, int8", "; ".join(parts), fix if lacking else "")]


def usable_cores() -> float:
    """How many cores this process may use: in a container or a batch job, not all."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    count = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota, period = [*_of_the_container("cpu.max").split(), "", ""][:2]
    return min(count, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else count


def memory() -> Line:
    """Is enough memory free for the largest notebook? A container may have a limit."""
    import psutil

    machine = psutil.virtual_memory()
    free, total = machine.available, machine.total
    limit = _of_the_container("memory.max") or _of_the_container("memory/memory.limit_in_bytes")
    used = _of_the_container("memory.current") or _of_the_container("memory/memory.usage_in_bytes")
    where = ""
    if limit.isdigit() and int(limit) < total:
        total = int(limit)
        free = min(free, total - int(used or 0))
        where = " (the limit of this container)"
    text = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free{where}"
    if free >= MEMORY_GIB * 2**30:
        return Line("ok", "memory", text)
    more = "give the container more" if where else "close other programs"
    return Line("note", "memory", text, f"{more}: {MEMORY_GIB:.0f} GiB are wanted")


def _of_the_container(name: str) -> str:
    """A file of Linux's control groups, version 2 or 1; empty where there is none."""
    try:
        return (CONTROL_GROUPS / name).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


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


def writing() -> list[Line]:
    """May this user write where the course does: downloads, temporary files, results?"""
    places = {
        "downloads": (runtime.settings().folders[0], "set VIT_CACHE to a folder of yours"),
        "temporary": (Path(tempfile.gettempdir()), "set TMPDIR to a folder of yours"),
        "here": (Path.cwd(), "start in a folder of yours, or copy the course there"),
    }
    lines = []
    for what, (folder, fix) in places.items():
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            text = f"{what}: {there} cannot be written ({error.strerror})"
            lines.append(Line("note", "writing", text, fix))
    good = f"{', '.join(places)}: all can be written"
    return lines or [Line("ok", "writing", good)]


def way_out(hub: Line) -> list[Line]:
    """The proxy and the certificates on the way to the Hub, where something is set or wrong."""
    lines = []
    proxy = urllib.request.getproxies().get("https", "")
    if proxy:
        at = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        text = f"{at.hostname}:{at.port}" if at.port else f"{at.hostname}"  # never its password
        fix = "ask for the right HTTPS_PROXY, or unset it" if hub.state != "ok" else ""
        lines.append(Line("note" if fix else "ok", "proxy", text, fix))
    elif hub.state != "ok":
        fix = "nothing, or set HTTPS_PROXY=http://HOST:PORT where this network wants a proxy"
        lines.append(Line("note", "proxy", "none is set", fix))
    named = [(v, os.environ[v]) for v in CERTIFICATES if os.environ.get(v)]
    for variable, path in named:
        if not Path(path).exists():
            fix = f"unset {variable}, or set it to the file with your organisation's certificate"
            lines.append(Line("note", "certificates", f"{variable}: there is no {path}", fix))
    if "secure connection" in hub.text:
        fix = (
            "see that the clock is right; where the network checks traffic itself, set "
            "REQUESTS_CA_BUNDLE to the file with your organisation's certificate"
        )
        lines.append(Line("note", "certificates", "the Hub's is not trusted here", fix))
    return lines


def hub_line() -> Line:
    """Does the Hub answer within three seconds?"""
    if reason := resources.hub_answers(runtime.settings()):
        fix = "nothing if all resources below are here or the kit is enough; else the lines above"
        return Line("note", "Hub", reason, fix)
    return Line("ok", "Hub", "answers")


def cache_lines() -> list[Line]:
    """Which of the resources are on this machine, whole."""
    lines = []
    for name, row in resources.RESOURCES.items():
        if found := resources.find(name, runtime.settings()):
            lines.append(Line("ok", name, f"in {found}"))
        else:
            fix = "python -m vit_helpers prefetch"
            lines.append(Line("note", name, f"not here ({resources.size_in_words(row.size)})", fix))
    return lines


def disk() -> Line:
    """Is there room for what is missing?"""
    here = runtime.settings()
    need = sum(r.size for n, r in resources.RESOURCES.items() if not resources.find(n, here))
    place = here.folders[0]
    there = next(p for p in (place, *place.absolute().parents) if p.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 1e9:,.1f} GB free at {there}"
    if free >= need + resources.SPARE_BYTES:
        return Line("ok", "disk", text)
    fix = f"{need / 1e9:,.1f} GB are still to come: make room, or set VIT_CACHE to another disk"
    return Line("note", "disk", text, fix)


def kit_line() -> Line:
    """Is the offline kit whole?"""
    try:
        for name in offline_kit.checksums(resources.KIT):
            offline_kit.verify(name, resources.KIT)
    except CourseError as error:
        fix = "fetch the repository again (git checkout vit_helpers/offline_kit in a clone)"
        return Line("note", "kit", str(error), fix)
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
