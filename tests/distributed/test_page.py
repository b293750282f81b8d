"""The commands of docs/distributed.md, started as they stand there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import ROOT, environment

from minigrad.distributed import launch

PAGE = ROOT / "docs" / "distributed.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMANDS = {
    "python": [sys.executable],
    "minigrad": [sys.executable, "-c", "from minigrad.cli import main; main()"],
    "mpiexec": [launch.mpiexec()],
}
NUMBER = re.compile(r"\d+\.\d+")

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="not run from the sources")


@pytest.mark.slow
def test_commands_print_what_the_page_says(tmp_path):
    ran = 0
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "python":
            (tmp_path / re.match(r"# (\w+\.py)\n", text)[1]).write_text(text)
            continue
        assert language == "console"
        command, _, expected = text.removeprefix("$ ").partition("\n")
        first, *rest = shlex.split(command)
        given = [word if word != "python" else sys.executable for word in rest]
        done = subprocess.run(
            [*COMMANDS[first], *given], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        assert NUMBER.sub("0", done.stdout) == NUMBER.sub("0", expected), command
        for came, said in zip(NUMBER.findall(done.stdout), NUMBER.findall(expected), strict=True):
            assert float(came) == pytest.approx(float(said), abs=0.03), (command, done.stdout)
        ran += 1
    assert ran == 4
    assert Path(tmp_path / "runs/mnist/last.safetensors").exists()


def test_messages_on_the_page_are_those_of_the_code():
    """Each line of the table has words that the sources print."""
    sources = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("exchange", "distributed", "train")
        for path in (Path(launch.__file__).parents[1] / folder).glob("*.py")
    )
    page = PAGE.read_text(encoding="utf-8")
    for words in (
        "the processes do not do the same: rank 0 is at",
        "since rank {rank} failed: ",
        "does not answer: its process or its machine hangs",
        "was ended by ",
        "perhaps the machine had no memory left",
        "version or script",
        "the training",
        "rank 0 failed at ",
    ):
        assert words in sources
        assert words.replace("{rank}", "1") in page, words
