"""The page of a tape: its data and its text; in a browser, where there is one, its clicks and keys."""

import base64
import importlib.util
import json
import re
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg
from minigrad.inspect.heatmap import SIDE, heat_map
from minigrad.inspect.page import for_script
from minigrad.inspect.sources import kernel_sources

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LIMITS = mg.inspect.Limits(1e11, 2e10)


def data_of(path):
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">\n(.*)\n</script>', text)[1])


@pytest.fixture
def page(net, tmp_path):
    """The data of a net of two layers, on the reference."""
    two = net()
    with mg.inspect.record():
        loss = two.loss()
    names = {**two.leaves, "x": two.x, "labels": two.labels}
    return data_of(mg.inspect.page(loss, tmp_path / "tape.html", names=names))


def deep(device="reference"):
    """A net of blocks in blocks, whose tape is large enough for the modules to be closed."""
    mg.manual_seed(0)
    block = lambda: mg.nn.Sequential(mg.nn.Linear(6, 6), mg.nn.BatchNorm(6), mg.nn.Tanh())  # noqa: E731
    model = mg.nn.Sequential(*[mg.nn.Sequential(block(), block()) for _ in range(3)], mg.nn.Linear(6, 3))
    return model.to(device)


def test_nodes_are_those_of_the_drawing(page):
    assert sorted(n["title"] for n in page["nodes"]) == sorted(
        ["MatMul", "Add", "Sigmoid", "MatMul", "Add", "CrossEntropy", "w1", "b1", "w2", "b2", "x", "labels"]
    )
    assert all(source < i for i, n in enumerate(page["nodes"]) for source in n["sources"])
    assert page["nodes"][-1]["kind"] == "result"


def test_steps_go_backward_and_are_checked(page):
    assert [page["nodes"][s["node"]]["number"] for s in page["steps"]] == [6, 5, 4, 3, 2, 1]
    assert all(part["check"]["ok"] for s in page["steps"] for part in s["passed"])
    assert {page["nodes"][part["to"]]["title"] for part in page["steps"][1]["passed"]} == {"MatMul", "b2"}


def test_every_node_has_its_value_and_every_leaf_its_gradient(page):
    assert all(len(n["value"]) == 1 for n in page["nodes"] if n["kind"] != "result")
    leaf = next(n for n in page["nodes"] if n["title"] == "w1")
    assert [page["maps"][i]["shape"] for i in leaf["gradient"]] == [[2, 3]]


def test_ops_have_formula_line_and_kernels(page):
    op = next(n for n in page["nodes"] if n["title"] == "Sigmoid")
    assert "dx = dy y (1 - y)" in op["formula"]
    assert "mg.sigmoid" in op["code"]
    assert [c["kernel"] for c in op["forward"] + op["backward"]] == [
        "elementwise.sigmoid_forward", "elementwise.sigmoid_backward"
    ]  # fmt: skip
    assert set(page["kernels"]["elementwise.sigmoid_forward"]) == {"reference", "cpu", "cuda"}
    assert "class Sigmoid" in page["ops"]["Sigmoid"]["text"]


def test_what_was_not_recorded_is_said(net, tmp_path):
    found = data_of(mg.inspect.page(net().loss(), tmp_path / "tape.html"))
    assert not found["recorded"]
    assert all(part["check"] is None for s in found["steps"] for part in s["passed"])


def test_gradients_and_tape_are_not_touched(net, tmp_path):
    two = net()
    loss = two.loss()
    mg.inspect.page(loss, tmp_path / "tape.html")
    assert all(t.grad is None for t in two.leaves.values())
    loss.backward()


def test_without_a_tape_nothing_is_written(tmp_path):
    with pytest.raises(RuntimeError, match="has no tape"):
        mg.inspect.page(mg.tensor([1.0]), tmp_path / "tape.html")
    assert not (tmp_path / "tape.html").exists()


def test_nothing_a_name_holds_is_taken_for_html(net, tmp_path):
    two = net()
    evil = "</script><script>alert(1)</script>"
    path = mg.inspect.page(two.loss(), tmp_path / "tape.html", names={evil: two.leaves["w1"]})
    assert evil not in path.read_text()
    assert evil in {n["title"] for n in data_of(path)["nodes"]}
    assert "<" not in for_script({"a": "<b>&"})


def test_page_asks_for_nothing_outside(net, tmp_path):
    text = mg.inspect.page(net().loss(), tmp_path / "tape.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"""(src|href)=["']|url\(|@import|fetch\(""", text.split('id="data"')[0])
    assert "\n@" not in text.split("<style>")[0]


def test_modules_are_found_and_nested(tmp_path):
    model = deep()
    with mg.inspect.record():
        loss = mg.cross_entropy(model(np.ones((4, 6), "f4") * np.arange(6, dtype="f4")), np.arange(4) % 3)
    found = data_of(mg.inspect.page(loss, tmp_path / "tape.html"))
    paths = {n["title"]: n["path"] for n in found["nodes"]}
    assert paths["1.0.0.weight"] == ["1", "1.0", "1.0.0"]
    assert paths["CrossEntropy"] == []
    assert found["modules"]["1.0"]["class"] == "Sequential"


def test_plan_gives_times_and_shares(tmp_path):
    model = mg.nn.Sequential(mg.nn.Linear(6, 5), mg.nn.Tanh(), mg.nn.Linear(5, 3)).to("reference")
    x, labels = np.ones((4, 6), "f4"), np.arange(4) % 3

    @mg.capture(device="reference")
    def step(x, labels):
        loss = mg.cross_entropy(model(x), labels)
        loss.backward()
        return loss

    for _ in range(3):
        step(x, labels)
    with mg.inspect.record():
        loss = mg.cross_entropy(model(x), labels)
    found = data_of(mg.inspect.page(loss, tmp_path / "tape.html", plan=step.plan, limits=LIMITS))
    calls = [c for n in found["nodes"] for part in ("forward", "backward") for c in n.get(part, ())]
    assert len(calls) > 8
    assert all(c["microseconds"] > 0 and c["share"] >= 0 for c in calls)
    assert found["limits"] == {"operations": 1e11, "bytes": 2e10}


def test_limits_are_of_this_machine(monkeypatch):
    module = sys.modules["minigrad.inspect.limits"]  # whose name is the function's, too
    monkeypatch.setattr(module, "SIDE", 64)
    monkeypatch.setattr(module, "COPIED", 1 << 12)
    found = mg.inspect.limits("reference")
    assert found.operations > 1e6
    assert found.bytes > 1e6


@pytest.mark.parametrize(
    "name", ["gemm.gemm", "conv.conv_forward", "elementwise.sigmoid_forward", "norm.batch_norm_forward"]
)
def test_kernels_have_their_text_on_every_device(name):
    found = kernel_sources(name)
    assert set(found) == {"reference", "cpu", "cuda"}
    assert all(name.split(".")[1] in source.text and source.file.startswith("kernels/") for source in found.values())


def test_kernels_of_users_have_none():
    assert kernel_sources("own.mine") == {}


@pytest.mark.parametrize("shape", [(), (3,), (500,), (2, 3), (301, 77), (0, 3), (2, 9, 9, 40), (3, 3, 8, 4), (2, 3, 4)])
@pytest.mark.parametrize("image", [False, True])
def test_heat_map_has_as_many_bytes_as_cells(rng, shape, image):
    drawn = heat_map(rng.standard_normal(shape), image=image)
    cells = base64.b64decode(drawn["cells"])
    assert len(cells) == drawn["rows"] * drawn["columns"]
    assert max(drawn["rows"], drawn["columns"]) <= SIDE
    assert drawn["shape"] == list(shape)
    json.dumps(drawn, allow_nan=False)


def test_heat_map_keeps_signs_extremes_and_nan():
    cells = [*base64.b64decode(heat_map(np.array([[-2.0, 0.0], [2.0, np.nan]]))["cells"])]
    assert cells == [2, 128, 254, 1]


def test_heat_map_is_of_means():
    drawn = heat_map(np.repeat(np.arange(48.0), 10)[None])
    assert drawn["scale"] == 47.0
    assert drawn["columns"] == 48


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium is installed to open the page in")
    if not importlib.util.find_spec("playwright"):
        pytest.skip("playwright, which drives the browser, is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser, tmp_path):
    """A function that opens the page of the deep net and gives the tab, and what went wrong in it."""
    model = deep()
    with mg.inspect.record():
        loss = mg.cross_entropy(model(np.ones((4, 6), "f4") * np.arange(6, dtype="f4")), np.arange(4) % 3)
    path = mg.inspect.page(loss, tmp_path / "tape.html")
    contexts = []

    def open_page(width=1200, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True)
        contexts.append(context)
        tab, errors = context.new_page(), []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.goto(path.as_uri())
        return SimpleNamespace(tab=tab, errors=errors)

    yield open_page
    for context in contexts:
        context.close()


def test_keys_step_back_and_forth(opened):
    page = opened()
    tab = page.tab
    step = lambda: tab.inner_text("#step")  # noqa: E731
    assert step() == "step 0 of 20"
    tab.keyboard.press("ArrowRight")
    assert (step(), tab.inner_text("#panel h2")) == ("step 1 of 20", "#20 CrossEntropy")
    tab.keyboard.press("End")
    assert (step(), tab.inner_text("#panel h2")) == ("step 20 of 20", "#1 Linear")
    assert tab.get_attribute("[aria-current=step]", "id") == "m0"  # the closed module that it is in
    tab.keyboard.press("ArrowLeft")
    assert step() == "step 19 of 20"
    tab.keyboard.press("Home")
    assert step() == "step 0 of 20"
    assert page.errors == []


def test_modules_open_and_close(opened):
    page = opened()
    tab = page.tab
    ops = lambda: tab.locator(".node.op, .node.result").count()  # noqa: E731
    assert ops() == 2  # the last layer and the loss
    tab.click("#m1")
    assert tab.inner_text("#panel h2") == "1 Sequential"
    tab.click("#m1")
    assert tab.locator("#m1\\.0").count() == 1  # its parts, which are closed
    tab.keyboard.press("e")
    assert ops() == 20
    tab.focus("[data-module='2']")
    tab.keyboard.press("Enter")
    assert ops() == 14
    tab.click("#close")
    assert ops() == 2
    assert page.errors == []


def test_click_shows_formula_heat_map_check_and_code(opened):
    page = opened()
    tab = page.tab
    tab.keyboard.press("e")
    tab.focus("#n5")
    tab.locator(".node.op", has_text="Tanh").first.click()
    panel = tab.inner_text("#panel")
    assert "finite differences" in panel
    assert "✓ checked" in panel
    assert "elementwise.tanh_forward" in panel
    assert "kernels/cuda/elementwise.py" in panel
    assert tab.locator("#panel canvas").count() >= 3
    tab.click("#panel summary >> nth=0")
    assert "def tanh_forward" in tab.inner_text("#panel details[open] pre")
    assert page.errors == []


def test_nothing_is_wider_than_a_telephone(opened):
    page = opened(width=360)
    page.tab.keyboard.press("ArrowRight")
    assert page.tab.evaluate("document.documentElement.scrollWidth") == 360
    assert page.errors == []


def test_opened_modules_can_be_read_and_what_is_at_work_is_seen(opened):
    """On a telephone, where the graph of all ops is much wider than the screen."""
    tab = opened(width=390).tab
    tab.emulate_media(reduced_motion="reduce")  # so that it does not take its time to scroll
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    tab.click("#open")
    picture = "document.querySelector('#graph svg')"
    assert tab.evaluate(f"{picture}.getBoundingClientRect().width / {picture}.viewBox.baseVal.width") > 0.74
    room, place = tab.locator("#graph").bounding_box(), tab.locator("[aria-current=step]").bounding_box()
    assert room["y"] <= place["y"] <= room["y"] + room["height"] - place["height"]
    assert room["x"] <= place["x"] <= room["x"] + room["width"]
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_dark_where_the_reader_wants_it(opened):
    colour = "getComputedStyle(document.body).backgroundColor"
    assert opened().tab.evaluate(colour) == "rgb(255, 255, 255)"
    assert opened(scheme="dark").tab.evaluate(colour) == "rgb(20, 23, 28)"


def test_an_op_with_several_results_shows_each(tmp_path):
    x = mg.tensor(np.arange(8.0).reshape(2, 4), "float32", "reference", requires_grad=True)
    with mg.inspect.record():
        a, b = mg.split(x, [1], axis=1)
        loss = (a * b).sum()
    found = data_of(mg.inspect.page(loss, tmp_path / "tape.html", names={"x": x}))
    node = next(n for n in found["nodes"] if n["title"] == "Split")
    assert node["shapes"] == [[2, 1], [2, 3]]
    for of in ("value", "gradient"):
        assert [found["maps"][i]["shape"] for i in node[of]] == [[2, 1], [2, 3]]
