"""What breaks on Windows or macOS and would not be seen on Linux: looked for in the source."""

import ast
from pathlib import Path

import pytest

from vit_helpers import runtime

PACKAGE = Path(runtime.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
# Only where there is a fork (Linux), only on POSIX, or only with a shell.
FORBIDDEN = ("os.system", "os.fork", "os.popen", "signal.SIGALRM", "signal.SIGKILL", "os.getuid")


def calls(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def problems(source: str) -> list[str]:
    """Sentences on what would break elsewhere in a piece of Python."""
    tree, found = ast.parse(source), []
    for call in calls(tree):
        name = ast.unparse(call.func)
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        mode = "".join(ast.unparse(a) for a in call.args[1 if name == "open" else 0 :][:1])
        text = name.endswith(("read_text", "write_text")) or (
            (name == "open" or name.endswith(".open"))
            and "b" not in mode
            and name not in ("Image.open", "tarfile.open")
        )
        if text and "encoding" not in given and None not in given:
            found.append(f"line {call.lineno}: {name} without encoding is cp1252 on Windows")
        if "shell" in given and ast.unparse(given["shell"]) != "False":
            found.append(f"line {call.lineno}: a shell is another one on Windows")
        workers = given.get("num_workers")
        if workers is not None and any(isinstance(a, ast.Lambda) for a in ast.walk(call)):
            found.append(f"line {call.lineno}: a lambda cannot be sent to a spawned worker")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN:
            found.append(f"line {node.lineno}: {ast.unparse(node)} is not everywhere")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value.startswith(("/tmp", "/usr", "/home", "C:\\")):
                found.append(f"line {node.lineno}: {node.value!r} is a place on one system only")
    return found


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("open('a').read()", 1),
        ("open('a', 'rb').read()", 0),
        ("open('a', encoding='utf-8')", 0),
        ("Path('a').write_text('é')", 1),
        ("subprocess.run('ls', shell=True)", 1),
        ("os.system('ls')", 1),
        ("folder = '/tmp/x'", 1),
        ("DataLoader(x, num_workers=2, collate_fn=lambda b: b)", 1),
        ("DataLoader(x, num_workers=2, collate_fn=collate)", 0),
    ],
)
def test_the_search_finds_what_it_looks_for(source, count):
    assert len(problems(source)) == count


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_nothing_breaks_on_another_system(path):
    assert problems(path.read_text(encoding="utf-8")) == []


def test_no_file_has_a_name_that_windows_refuses():
    root = PACKAGE.parent
    names = [p for p in root.rglob("*") if not {".git", ".venv", "build"} & set(p.parts)]
    assert not [p for p in names if set(p.name) & set('<>:"|?*\\') or p.name.endswith((" ", "."))]
    lower = [str(p).lower() for p in names]
    assert len(lower) == len(set(lower))  # two names that differ by case only are one file there


def test_apples_gpu_is_taken_where_there_is_one(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    device, precision = runtime.choose_device()
    assert device.type == "mps" and precision == torch.float32
