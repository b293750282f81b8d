"""The page docs/how-autograd-works.md: its code runs and prints what the page says."""

import math
import re
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-autograd-works.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:e[+-]?\d+)?")


def assert_same_text(came, expected):
    """All but the numbers to the letter; numbers to a thousandth, or if smaller, a millionth: machines round differently."""
    assert NUMBER.sub("0", came) == NUMBER.sub("0", expected)
    pairs = zip(NUMBER.findall(came), NUMBER.findall(expected), strict=True)
    wrong = [(a, b) for a, b in pairs if not math.isclose(float(a), float(b), rel_tol=1e-3, abs_tol=1e-6)]
    assert not wrong, f"(came, expected): {wrong}"


def blocks():
    return BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def run_example(folder, monkeypatch):
    """Run the script as the page says, in a folder of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["see_the_tape.py"])
    runpy.run_path(str(ROOT / "examples" / "see_the_tape.py"), run_name="__main__")


def test_python_blocks_print_what_the_page_says(capsys):
    names = {"__name__": "page"}
    ran = 0
    for (language, code), (_, expected) in zip(blocks(), blocks()[1:], strict=False):
        if language == "python":
            exec(compile(code, str(PAGE), "exec"), names)
            assert_same_text(capsys.readouterr().out, expected)
            ran += 1
    assert ran == sum(language == "python" for language, _ in blocks()) > 5


def test_every_block_of_code_has_its_output():
    languages = [language for language, _ in blocks()]
    assert languages[1::2] == ["text"] * (len(languages) // 2)
    assert set(languages[::2]) == {"console", "python"}


def test_example_prints_what_the_page_says(tmp_path, monkeypatch, capsys):
    run_example(tmp_path, monkeypatch)
    (expected,) = [
        text for (language, _), (_, text) in zip(blocks(), blocks()[1:], strict=False) if language == "console"
    ]
    assert_same_text(capsys.readouterr().out, expected)


def test_figure_is_the_one_that_the_example_draws(tmp_path, monkeypatch):
    run_example(tmp_path, monkeypatch)
    figure = (ROOT / "docs" / "figures" / "tape.svg").read_text(encoding="utf-8")
    assert_same_text((tmp_path / "tape.svg").read_text(encoding="utf-8"), figure)


def test_comparison_notices_a_different_number():
    with pytest.raises(AssertionError):
        assert_same_text("norm 0.41", "norm 0.42")


def test_comparison_notices_a_different_word():
    with pytest.raises(AssertionError):
        assert_same_text("WRONG Exp", "good Exp")
