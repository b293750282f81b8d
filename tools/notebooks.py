"""Run the tutorials, and keep in them what their cells print and draw.

    python tools/notebooks.py [docs/tutorials/train.ipynb ...]

Without names, all of them. tests/docs/test_tutorials.py runs them again and compares: text to the letter, numbers roughly. What
a cell with the tag "varies" gives, such as times, is kept and not compared. `alt` in the metadata of a cell says in words what
its picture shows. Needs the extra `docs`.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
LONGEST = 120  # seconds that a cell may take, kernels compiled


def run(path: Path) -> Any:
    """The notebook with the outputs that it has now; its cells run in an empty folder. CellExecutionError if one fails."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=LONGEST, resources=resources, record_timing=False).execute()
    return notebook


def tidy(notebook: Any) -> Any:
    """Without what depends on the machine, and without what is said of compiling."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Run those that are named, else all."""
    for path in map(Path, sys.argv[1:] or sorted(map(str, TUTORIALS.glob("*.ipynb")))):
        nbformat.write(tidy(run(path)), path)
        print(f"{path.name} is written anew")


if __name__ == "__main__":
    main()
