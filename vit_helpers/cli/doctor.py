"""`python -m vit_helpers doctor`: one page on what will and will not work on this machine."""

import os
import platform
import re
import shutil
import sys
import tempfile
import textwrap
import urllib.request
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .. import offline_kit, resources, runtime
from ..errors import CourseError
from ..resources import packages

GIB = 2**30
MEMORY = 4 * GIB  # the largest notebook in the quick profile, and room for the rest
CONTROL_GROUPS = Path("/sys/fs/cgroup")  # Linux: what a container may use
STATISTICS = ("memory.stat", "memory/memory.stat")
CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
GET_TORCH = "see https://pytorch.org/get-started"


@dataclass(frozen=True)
class Line:
    """One finding: `ok`, `note` (something is less than it could be) or `fail`; and the remedy."""

    state: str
    topic: str
    text: str
    fix: str = ""


def check(good: bool, topic: str, text: str, fix: str) -> Line:
    """`ok`, or a `note` with a remedy."""
    return Line("ok", topic, text) if good else Line("note", topic, text, fix)


def run() -> int:
    """Print the page. Returns 0, or 1 if a notebook could not run."""
    lines = examine()
    print(page(lines))
    return int(any(line.state == "fail" for line in lines))


def examine() -> list[Line]:
    """Look at everything, from Python up to whether a notebook could run now."""
    here = f"{platform.python_version()} on {platform.platform(terse=True)}"
    lines = [Line("ok", "Python", here), *libraries()]
    if all(line.state != "fail" for line in lines):
        lines += [device(), *processor()]
    found = {name: resources.find(name, runtime.settings()) for name in resources.RESOURCES}
    missing = [name for name, folder in found.items() if not folder]
    fix = "nothing if all resources below are here or the kit is enough; else the lines above"
    reason = resources.hub_answers(runtime.settings())
    hub = check(not reason, "Hub", reason or "answers", fix)
    kit, room = kit_line(), disk(missing)
    lines += [memory(), widgets(), writing(), room, *way_out(hub), hub]
    for name, folder in found.items():
        size = resources.size_in_words(resources.get(name).size)
        text = f"in {folder}" if folder else f"not here ({size})"
        lines.append(check(bool(folder), name, text, "python -m vit_helpers prefetch"))
    return [*lines, kit, verdict(hub, kit, missing, room)]


def page(lines: list[Line]) -> str:
    """The findings as text, each with its remedy beneath."""
    width = max(len(line.topic) for line in lines)
    shown, indent = [], " " * (width + 8)
    for line in lines:
        shown.append(f"{line.state.replace('fail', 'FAIL'):<4}  {line.topic:<{width}}  {line.text}")
        wrapped = textwrap.wrap(f"-> {line.fix}", 97 - len(indent), break_long_words=False)
        shown += [indent + "   " * (i > 0) + part for i, part in enumerate(wrapped) if line.fix]
    return "\n".join(shown)


def libraries() -> list[Line]:
    """Is every library there, new enough, and does torch start?"""
    try:
        wanted = packages.required()
    except metadata.PackageNotFoundError:
        fix = "pip install -e . in the folder of the course"
        return [Line("fail", "libraries", "the course is not installed", fix)]
    bad = []
    for requirement in wanted:
        version = _version(requirement.name)
        if not version:
            bad.append(f"{requirement} is missing")
        elif not requirement.specifier.contains(version, prereleases=True):
            bad.append(f"{requirement} is needed, there is {version}")
    if bad:
        fix = "pip install -r requirements.txt in the folder of the course"
        return [Line("fail", "libraries", "; ".join(bad), fix)]
    try:
        import torch  # noqa: F401
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        # Such as two builds that do not fit together, or a library of CUDA that is not there.
        fix = "install torch and torchvision again, in one command and from one source"
        return [Line("fail", "libraries", str(error).splitlines()[0], fix)]
    names = ("torch", "torchvision", "transformers", "datasets")
    return [Line("ok", "libraries", ", ".join(f"{name} {_version(name)}" for name in names))]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def device() -> Line:
    """Which device the notebooks would use, whether it works, its memory, its number format."""
    import torch

    chosen, precision = runtime.choose_device()
    if chosen.type == "mps":
        return Line("ok", "GPU", "Apple MPS, fp32")
    if chosen.type == "cuda":
        name = torch.cuda.get_device_name()
        try:  # a card that this build has no programs for says so only when it computes
            float(torch.ones(2, device="cuda").sum())
        except RuntimeError as error:
            text = f"{name} does not compute: {str(error).splitlines()[0]}"
            fix = f"install a build of torch for this card, {GET_TORCH}"
            return Line("fail", "GPU", text, fix)
        free, total = torch.cuda.mem_get_info()
        bf16 = "bf16" if precision == torch.bfloat16 else "no bf16 in hardware, so fp16"
        text = f"{name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free, {bf16}"
        return check(free >= 4 * GIB, "GPU", text, "end other programs that use the GPU")
    text = "none, the notebooks use the CPU"
    fix = "nothing for VIT_PROFILE=quick; VIT_PROFILE=full wants a GPU (on Colab: Runtime, T4)"
    if shutil.which("nvidia-smi"):
        text = f"torch {torch.__version__} cannot use the NVIDIA card"
        fix = f"install the CUDA build of torch, {GET_TORCH}"
        if torch.version.cuda:
            fix = f"update the driver: this torch is built for CUDA {torch.version.cuda}"
    elif sys.platform == "darwin" and platform.machine() == "arm64":
        text = "Apple's GPU cannot be used by this torch"
        fix = "update macOS and torch: MPS needs macOS 14 or newer"
    return Line("note", "GPU", text, fix)


def processor() -> list[Line]:
    """The CPU: its cores, and what it has in hardware for bf16 and int8."""
    import torch

    able = runtime.cpu_abilities()
    threads, cores = torch.get_num_threads(), usable_cores()
    text = f"{able.get('cpu_name') or platform.machine()}, cores: {cores:g}, threads: {threads}"
    fix = ""
    if threads > max(1, cores):
        fix = f"set OMP_NUM_THREADS={max(1, int(cores))}: more threads than cores slow each other"
    elif "OMP_NUM_THREADS" in os.environ and threads < int(cores):
        fix = "unset OMP_NUM_THREADS to use all cores"
    lines = [check(not fix, "CPU", text, fix)]
    if not able:
        return [*lines, Line("note", "bf16, int8", "this torch cannot tell", "a newer one can")]
    has = {what: ", ".join(filter(able.get, names)) for what, names in runtime.UNITS.items()}
    text = "; ".join(f"{what}: {found or 'not in hardware'}" for what, found in has.items())
    fix = "nothing: in notebook 05, what is not in hardware will gain little here"
    return [*lines, check(all(has.values()), "bf16, int8", text, fix)]


def usable_cores() -> float:
    """How many cores this process may use: in a container or a batch job, not all."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    count = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    version_1 = [_of_the_container(f"cpu/cpu.cfs_{part}_us") for part in ("quota", "period")]
    quota, period = _of_the_container("cpu.max").split() or version_1
    return min(count, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else count


def memory() -> Line:
    """Is enough memory free for the largest notebook? A container may have a limit."""
    import psutil

    machine = psutil.virtual_memory()
    free, total, where, more = machine.available, machine.total, "", "close other programs"
    limit = _of_the_container("memory.max", "memory/memory.limit_in_bytes")
    if limit.isdigit() and int(limit) < total:
        used = _of_the_container("memory.current", "memory/memory.usage_in_bytes")
        # The cache of files counts as used, but is given up when memory is short.
        files = re.search(r"^inactive_file (\d+)", _of_the_container(*STATISTICS), re.M)
        total, where, more = int(limit), " (the limit of this container)", "give the container more"
        free = min(free, total - int(used or 0) + int(files[1] if files else 0))
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free{where}"
    return check(free >= MEMORY, "memory", text, f"{more}: {MEMORY // GIB} GiB are wanted")


def _of_the_container(*names: str) -> str:
    """A file of Linux's control groups, version 2 or 1; empty where there is none."""
    for path in (CONTROL_GROUPS / name for name in names):
        if path.is_file():
            return path.read_text(encoding="utf-8").strip()
    return ""


def widgets() -> Line:
    """Can the interactive parts be shown?"""
    viewers = {"JupyterLab": "jupyterlab", "Notebook": "notebook", "Colab": "google.colab"}
    found = [f"{name} {_version(p)}" for name, p in viewers.items() if _version(p)]
    shown = found or "google.colab" in sys.modules or "VSCODE_PID" in os.environ
    text = ", ".join([f"ipywidgets {_version('ipywidgets')}", *found])
    text += "" if shown else ", but nothing here to show them in"
    fix = "pip install jupyterlab, or open the notebooks in an editor that shows widgets"
    return check(bool(shown), "widgets", text, fix)


def writing() -> Line:
    """May this user write downloads and results?"""
    closed = []
    for folder in (_that_is_there(runtime.settings().folders[0]), Path.cwd()):
        try:
            tempfile.TemporaryFile(dir=folder).close()
        except OSError:
            closed.append(str(folder))
    text = f"not in {' and '.join(closed)}" if closed else "downloads and results can be written"
    return check(not closed, "writing", text, "set VIT_CACHE to, and start in, a folder of yours")


def _that_is_there(folder: Path) -> Path:
    return next(p for p in (folder, *folder.absolute().parents) if os.access(p, os.F_OK))


def way_out(hub: Line) -> list[Line]:
    """The proxy and the certificates on the way to the Hub, where something is set or wrong."""
    lines, good = [], hub.state == "ok"
    if proxy := urllib.request.getproxies().get("https", ""):
        text = proxy.rpartition("://")[2].rpartition("@")[2].split("/")[0]  # never its password
        lines.append(check(good, "proxy", text, "ask for the right HTTPS_PROXY, or unset it"))
    elif not good:
        fix = "nothing, or set HTTPS_PROXY=http://HOST:PORT where this network wants a proxy"
        lines.append(Line("note", "proxy", "none is set", fix))
    for variable in CERTIFICATES:
        path = os.environ.get(variable)
        if path and not Path(path).exists():
            fix = f"unset {variable}, or set it to the file with your organisation's certificate"
            lines.append(Line("note", "certificates", f"{variable}: there is no {path}", fix))
    if "secure connection" in hub.text:
        fix = (
            "see that the clock is right; where the network checks traffic itself, set "
            "REQUESTS_CA_BUNDLE to the file with your organisation's certificate"
        )
        lines.append(Line("note", "certificates", "the Hub's is not trusted here", fix))
    return lines


def disk(missing: list[str]) -> Line:
    """Is there room for what is missing?"""
    need = sum(resources.get(name).size for name in missing)
    there = _that_is_there(runtime.settings().folders[0])
    free = shutil.disk_usage(there).free
    fix = f"{need / 1e9:,.1f} GB are still to come: make room, or set VIT_CACHE to another disk"
    enough = free >= need + resources.SPARE_BYTES
    return check(enough, "disk", f"{free / 1e9:,.1f} GB free at {there}", fix)


def kit_line() -> Line:
    """Is the offline kit whole?"""
    try:
        for name in offline_kit.checksums(resources.KIT):
            offline_kit.verify(name, resources.KIT)
    except CourseError as error:
        fix = "fetch the repository again (git checkout vit_helpers/offline_kit in a clone)"
        return Line("note", "kit", str(error), fix)
    return Line("ok", "kit", f"whole, in {Path(resources.KIT)}")


def verdict(hub: Line, kit: Line, missing: list[str], room: Line) -> Line:
    """Could a notebook run now, and from which source?"""
    wanted, profile, _ = runtime.what_is_asked_for()
    state, text, fix = "ok", "run from the offline kit", ""
    if wanted != "offline" and not missing:
        text = "run from the Hub's files on this machine"
    elif wanted != "offline" and hub.state == room.state == "ok":
        text = "download what is missing, then run"
    elif wanted == "hub":
        state, text = "fail", f"lack {', '.join(missing)}"
        fix = "see the lines above, or set VIT_SOURCE=auto"
    elif kit.state != "ok":
        state, text, fix = "fail", "have nothing to run from", "see the lines above"
    return Line(state, "notebooks", f"{text} (VIT_SOURCE={wanted}, VIT_PROFILE={profile})", fix)
