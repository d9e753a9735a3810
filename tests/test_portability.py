"""What breaks on Windows or macOS and would not be seen on Linux: looked for in the source."""

import ast
import json
import os
import pickle
import re
import shutil
import subprocess
from pathlib import Path

import factories
import pytest
import torch

from vit_helpers import data, runtime

PACKAGE = Path(runtime.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((PACKAGE.parent / "notebooks").glob("*.ipynb"))
# Only where there is a fork (Linux), only on POSIX, or only with a shell.
FORBIDDEN = (
    *("os.system", "os.popen", "os.startfile", "os.fork", "os.forkpty", "os.kill", "os.killpg"),
    *("os.getuid", "os.geteuid", "os.uname", "os.sysconf", "os.getloadavg", "os.nice", "os.mkfifo"),
    *("os.sched_getaffinity", "os.sched_setaffinity", "os.setsid", "os.wait"),
    *("signal.SIGALRM", "signal.SIGKILL", "signal.SIGHUP", "signal.SIGUSR1", "signal.alarm"),
)
# Modules that one system has and another has not.
POSIX = {"crypt", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
WINDOWS = {"_winapi", "msvcrt", "winreg", "winsound"}
PROGRAMS = set("bash cat cp echo ls mkdir mv pip python python3 rm sh".split())


def problems(source: str, *, mps: bool = True) -> list[str]:
    """Sentences on what would break elsewhere in a piece of Python.

    `mps=False` leaves out what only breaks on Apple's GPU.
    """
    found = []
    for node in everywhere(ast.parse(source)):
        found += [f"line {node.lineno}: {what}" for what in judge(node)]
        if mps and doubles(node):
            found.append(f"line {node.lineno}: Apple's GPU has no float64: .cpu() first")
    return found


def everywhere(tree):
    """Every node but those behind a question for the system: `if sys.platform == "win32":`."""
    for node in ast.iter_child_nodes(tree):
        asks = isinstance(node, ast.If) and "sys.platform" in ast.unparse(node.test)
        if hasattr(node, "lineno"):
            yield node
        if not asks:
            yield from everywhere(node)


def judge(node):
    """What is wrong with one node, in words."""
    if isinstance(node, ast.Call):
        yield from judge_call(node)
    if isinstance(node, ast.Attribute):
        name = ast.unparse(node)
        if name in FORBIDDEN:
            yield f"{name} is not everywhere"
        if name == "os.path":
            yield "os.path: paths are pathlib's, which knows the separator"
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [getattr(node, "module", None) or "", *(a.name for a in node.names)]
        names = names[1:] if isinstance(node, ast.Import) else names[:1]
        for name in {n.split(".")[0] for n in names} & (POSIX | WINDOWS):
            yield f"the module {name} is not on every system"
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if node.value.startswith(("/tmp", "/usr", "/home", "/var", "/etc", "/dev", "C:\\")):
            yield f"{node.value!r} is a place on one system only"
    if isinstance(node, ast.List) and node.elts and isinstance(node.elts[0], ast.Constant):
        if node.elts[0].value in PROGRAMS and not isinstance(node.ctx, ast.Store):
            yield f"the program {node.elts[0].value!r} may be another one, or none"


def judge_call(call):
    """What is wrong with a call, in words."""
    name = ast.unparse(call.func)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    more = None in given  # `**options` may bring anything
    mode = "".join(ast.unparse(a) for a in call.args[1 if name == "open" else 0 :][:1])
    binary = name in ("Image.open", "tarfile.open")
    opens = name == "open" or (name.endswith(".open") and not binary)
    writes = "Temporary" in name and "w" in mode and "b" not in mode
    text = name.endswith(("read_text", "write_text")) or (opens and "b" not in mode) or writes
    if (text or is_true(given.get("text"))) and "encoding" not in given and not more:
        yield f"{name} without encoding is cp1252 on Windows"
    if "shell" in given and not is_false(given["shell"]):
        yield "a shell is another one on Windows"
    if given.get("num_workers") and any(isinstance(a, ast.Lambda) for a in ast.walk(call)):
        yield "a lambda cannot be sent to a spawned worker"
    if name.endswith(("get_context", "set_start_method")) and "fork" in ast.unparse(call):
        yield "only Linux starts a worker by fork"
    if name == "os.rename" or (name.endswith(".rename") and len(call.args) == 1):
        yield f"{name} fails on Windows where the target exists: replace does not"
    if name.endswith("NamedTemporaryFile") and not {"delete", "delete_on_close"} & set(given):
        yield "Windows cannot open a temporary file a second time: TemporaryDirectory"
    if name.endswith("symlink_to") or name == "os.symlink":
        yield "a symbolic link needs rights on Windows that few have"
    if name.endswith("strftime") and re.search(r"%[-#]", ast.unparse(call)):
        yield "%-d is Linux's, %#d is Windows's"


def is_true(node) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def doubles(node) -> bool:
    """Whether a tensor becomes float64 where it is: on Apple's GPU it cannot."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    turned = node.func.attr == "double" or (
        node.func.attr == "to" and "float64" in "".join(ast.unparse(a) for a in node.args)
    )
    return turned and ".cpu()" not in ast.unparse(node.func.value)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("open('a').read()", 1),
        ("open('a', 'rb').read()", 0),
        ("open('a', encoding='utf-8')", 0),
        ("Path('a').write_text('é')", 1),
        ("Path('a').open('w')", 1),
        ("tempfile.TemporaryFile('w')", 1),
        ("tempfile.TemporaryDirectory()", 0),
        ("tempfile.NamedTemporaryFile()", 1),
        ("subprocess.run(command, text=True)", 1),
        ("subprocess.run(command, text=True, encoding='utf-8')", 0),
        ("subprocess.run('ls', shell=True)", 1),
        ("subprocess.run(['rm', '-r', folder])", 1),
        ("subprocess.run([sys.executable, '-m', 'pip'])", 0),
        ("os.system('ls')", 1),
        ("os.path.join('a', 'b')", 1),
        ("os.rename(a, b)", 1),
        ("partial.rename(target)", 1),
        ("frame.rename(columns=names)", 0),
        ("link.symlink_to(target)", 1),
        ("folder = '/tmp/x'", 1),
        ("import fcntl", 1),
        ("from resource import getrusage", 1),
        ("from . import resources", 0),
        ("if sys.platform == 'win32':\n    import msvcrt\nelse:\n    a.symlink_to(b)", 0),
        ("signal.signal(signal.SIGALRM, stop)", 1),
        ("multiprocessing.get_context('fork')", 1),
        ("multiprocessing.get_context('spawn')", 0),
        ("DataLoader(x, num_workers=2, collate_fn=lambda b: b)", 1),
        ("DataLoader(x, num_workers=2, collate_fn=collate)", 0),
        ("f'{day.strftime(\"%-d\")}'", 1),
        ("tensor.double()", 1),
        ("tensor.to(torch.float64)", 1),
        ("tensor.cpu().double()", 0),
    ],
)
def test_the_search_finds_what_it_looks_for(source, count):
    assert len(problems(source)) == count


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_breaks_on_another_system(path):
    # The kit is built on a CPU, by us.
    by_us = "offline_kit" in path.parts
    assert problems(path.read_text(encoding="utf-8"), mps=not by_us) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_cell_needs_a_shell_or_another_system(path):
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            assert not re.search(r"^\s*(!|%%?(bash|sh|script|cd|env)\b)", source, re.M), source
            assert problems(source) == [], source


def test_no_file_has_a_name_that_windows_refuses():
    root = PACKAGE.parent
    names = [p for p in root.rglob("*") if not {".git", ".venv", "build"} & set(p.parts)]
    assert not [p for p in names if set(p.name) & set('<>:"|?*\\') or p.name.endswith((" ", "."))]
    lower = [str(p).lower() for p in names]
    assert len(lower) == len(set(lower))  # two names that differ by case only are one file there


def test_apples_gpu_is_taken_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device, precision = runtime.choose_device()
    assert device.type == "mps" and precision == torch.float32


def test_pictures_go_to_a_worker_that_is_spawned_as_on_windows_and_macos(rt):
    pictures = data.balanced_subset(factories.load_dataset("cifar10")["train"], 10, seed=0)
    processor = factories.processor()
    pickle.dumps(data.train_transform(processor))
    dataset = data.PictureSet(pictures, data.eval_transform(processor))
    # A learner's own loader asks for one picture after the other, ours for a whole batch.
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=10, num_workers=1, multiprocessing_context="spawn"
    )
    (pixels, labels), *more = loader
    assert not more
    expected, expected_labels = next(iter(data.loader(dataset, 10)))
    assert torch.equal(pixels, expected) and torch.equal(labels, expected_labels)


@pytest.mark.skipif(not shutil.which("make"), reason="make is not here")
def test_make_lab_starts_for_root_too():
    """As in a container: JupyterLab refuses root unless it is told."""
    said = subprocess.run(
        ["make", "-n", "lab"], cwd=Path(__file__).parent.parent, capture_output=True, text=True
    ).stdout
    assert "jupyterlab notebooks" in said
    assert ("--allow-root" in said) == (getattr(os, "getuid", lambda: 1)() == 0)
