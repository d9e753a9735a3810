"""For maintainers and instructors, from a clone: run, solve, check, publish the notebooks."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"


def read_notebook(path: Path):
    """A notebook, as nbformat has it, for the kernel of this Python.

    Editors write the name of their own kernel into a notebook; no other machine has that.

    Raises:
        CourseError: If the file is no whole notebook.
    """
    import nbformat

    from vit_helpers.errors import CourseError

    try:
        text = path.read_text(encoding="utf-8-sig")
        notebook = nbformat.reads(text, as_version=4)
        nbformat.validate(notebook)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, nbformat.ValidationError):
        marked = path.is_file() and b"<<<<<<<" in path.read_bytes()
        why = "it has merge marks" if marked else "it is damaged"
        raise CourseError(
            f"{path} is no whole notebook ({why}): mend it, or git checkout the file."
        ) from None
    notebook.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    return notebook
