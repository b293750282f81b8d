"""The wheel: one top-level name, all that belongs to it, and it runs from any folder; and what a release is made of."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import PathDistribution, version
from pathlib import Path

import pytest
from targets import first_only

ROOT = Path(__file__).resolve().parent.parent
CACHES = shutil.ignore_patterns("__pycache__", "*.pyc")
SHIPPED = "kernels/cuda/kernels.ptx.xz"  # tools/ship_kernels.py writes it for a release; here it is empty


def run(*arguments, **options):
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=280, **options)
    assert result.returncode == 0, f"{' '.join(map(str, arguments))}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of what the wheel is built from: building leaves files behind."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not run from the sources")
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "minigrad", copy / "minigrad", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    shutil.copytree(ROOT / "kernels", copy / "kernels", ignore=CACHES)
    (copy / SHIPPED).touch()
    return copy


def sources_into(folder, link):
    """The packages as a checkout has them: with the link minigrad/kernels, with its text as a file, or without."""
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("not run from the sources")
    shutil.copytree(ROOT / "minigrad", folder / "minigrad", ignore=shutil.ignore_patterns("__pycache__", "kernels"))
    shutil.copytree(ROOT / "kernels", folder / "kernels", ignore=CACHES)
    (folder / SHIPPED).touch()
    if link == "link":
        (folder / "minigrad" / "kernels").symlink_to("../kernels")
    elif link == "text":
        (folder / "minigrad" / "kernels").write_text("../kernels")


CHECKOUTS = "link", "text", "nothing"  # git, git or a zip file where there are no links, the archive for pip


@pytest.mark.parametrize("link", first_only(*CHECKOUTS))
def test_a_checkout_can_be_imported_as_it_lies(link, tmp_path):
    """Also where a copy was installed by `pip install .`, which the folder one stands in hides."""
    sources_into(tmp_path, link)
    code = (
        "import minigrad as mg, minigrad.kernels.cpu as cpu; print(mg.__file__, cpu.__file__, mg.tensor([1.0]).sum())"
    )
    files = run(sys.executable, "-W", "error", "-c", code, cwd=tmp_path).split()
    assert files[0] == str(tmp_path / "minigrad" / "__init__.py")
    assert Path(files[1]).resolve() == tmp_path / "kernels" / "cpu" / "__init__.py"


@pytest.mark.slow
@pytest.mark.parametrize("link", CHECKOUTS)
def test_archive_and_wheel_have_the_kernels_once(link, tmp_path, names):
    """Of every kind of checkout, and of the archive of sources made from it."""
    sources_into(tmp_path, link)
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    code = "import setuptools.build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    run(sys.executable, "-c", code, cwd=tmp_path)
    (archive,) = (tmp_path / "dist").glob("*.tar.gz")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with tarfile.open(archive) as tar:
        files = [name.split("/", 1)[1] for name in tar.getnames() if name.endswith((".py", ".xz"))]
    assert SHIPPED in files
    assert "kernels/cpu/gemm.py" in files
    assert [name for name in files if name.startswith("minigrad/kernels")] == []
    with zipfile.ZipFile(wheel) as built:
        assert sorted(built.namelist()) == sorted(names)


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    """The wheel, built by the setuptools that is here, else by one that pip fetches."""
    try:
        here = int(version("setuptools").split(".")[0]) >= 77
    except ImportError:
        here = False
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if here else []
    run(sys.executable, "-m", "pip", "wheel", source, "--no-deps", "--wheel-dir", folder, *isolation)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder into which the wheel alone is installed."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder, wheel)
    return folder


@pytest.mark.slow
def test_wheel_has_one_top_level_name(names):
    top = {name.split("/")[0] for name in names}
    (metadata,) = (name for name in top if name.endswith(".dist-info"))
    assert top == {"minigrad", metadata}


@pytest.mark.slow
def test_wheel_is_pure_python(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")


@pytest.mark.slow
def test_wheel_has_every_module(names, source):
    modules = {f"minigrad/{p.relative_to(source / 'minigrad')}" for p in (source / "minigrad").rglob("*.py")}
    kernels = {f"minigrad/kernels/{p.relative_to(source / 'kernels')}" for p in (source / "kernels").rglob("*.py")}
    assert sorted((modules | kernels) - set(names)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minigrad/py.typed", "minigrad/kernels/cpu/gemm.py"])
def test_wheel_has(names, name):
    assert name in names


@pytest.mark.slow
def test_wheel_has_the_embedded_dataset(names):
    assert [name for name in names if name.startswith("minigrad/data/") and name.endswith(".npz")]


@pytest.mark.slow
def test_wheel_has_nothing_else(names):
    others = [n for n in names if ".dist-info/" not in n and not n.endswith((".py", ".npz", "py.typed"))]
    others.remove(f"minigrad/{SHIPPED}")
    assert all(n.startswith("minigrad/inspect/page") and n.endswith((".html", ".css", ".js")) for n in others), others
    assert [n for n in names if "test" in Path(n).name and n != "minigrad/testing.py"] == []


@pytest.mark.slow
def test_core_needs_four_libraries_only(installed):
    (metadata,) = installed.glob("*.dist-info")
    required = [r for r in PathDistribution(metadata).requires if "extra ==" not in r]
    assert sorted(r.split(">")[0] for r in required) == ["filelock", "numba", "numpy", "platformdirs"]


@pytest.mark.slow
def test_command_is_installed(installed):
    (metadata,) = installed.glob("*.dist-info")
    scripts = PathDistribution(metadata).entry_points.select(group="console_scripts")
    assert [(script.name, script.value) for script in scripts] == [("minigrad", "minigrad.cli:main")]


PROGRAM = """
import numpy as np
import minigrad as mg
import minigrad.kernels
from minigrad.data import load_binary_mnist

data = load_binary_mnist()
images, labels = data.train_images[:60].astype(np.float32), data.train_labels[:60]
losses = []
for device in ("cpu", "reference"):
    mg.manual_seed(0)
    model = mg.models.MLP(sigma=0.1).to(device)
    optimizer = mg.optim.SGD(model.parameters(), lr=0.1)
    loss = mg.cross_entropy(model(mg.tensor(images, device=device)), labels)
    loss.backward()
    optimizer.step()
    losses.append(loss.item())
assert abs(losses[0] - losses[1]) < 1e-5, losses
print(mg.__file__, mg.kernels.__file__, sep="\\n")
"""


@pytest.mark.slow
def test_wheel_runs_from_another_folder(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    files = run(sys.executable, "-W", "error", "-c", PROGRAM, cwd=tmp_path, env=environment).split()
    assert files == [str(installed / "minigrad" / name / "__init__.py") for name in ("", "kernels")]


@pytest.mark.slow
def test_uninstalling_leaves_nothing(installed):
    (metadata,) = installed.glob("*.dist-info")
    listed = {path.parts[0] for path in PathDistribution(metadata).files}
    assert {p.name for p in installed.iterdir()} - {"bin"} == {name for name in listed if name not in ("..", "bin")}


@pytest.fixture(scope="module")
def project():
    if not (ROOT / "CITATION.cff").exists():
        pytest.skip("not run from the sources")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def entries(file, pattern):
    """All that a pattern finds in a file of the sources."""
    return re.findall(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)


def project_name():
    """What pip calls the project, which is imported by another name."""
    (name,) = entries("pyproject.toml", r'^name = "(.*?)"')
    return name


def bounds(requirements):
    """{package: what its version must be} of requirements; what comes by another extra of ours is left out."""
    found = (re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])? *([<>=!~][^;#]*?)? *(?:;.*)?", r) for r in requirements)
    return {match[1]: match[2] for match in found if match[1] != project_name()}


def test_all_files_say_the_same_version(project):
    assert entries("minigrad/version.py", r'^__version__ = "(.*)"$') == [project["version"]]
    assert entries("CITATION.cff", r"^version: (.*)$") == [project["version"]]
    assert entries("conda/recipe.yaml", r'^  version: "(.*)"$') == [project["version"]]
    assert project["version"] in entries("CHANGELOG.md", r"^## (\S+)")


def test_all_files_say_the_same_licence_and_title(project):
    assert entries("CITATION.cff", r"^title: (.*)$") == ["minigrad"]
    assert entries("conda/recipe.yaml", r"^  name: ([\w-]+)$") == [project["name"]]
    for file, licence in (("CITATION.cff", "license"), ("conda/recipe.yaml", "  license")):
        assert entries(file, rf"^{licence}: (\w+)$") == [project["license"]]


def test_the_name_that_pip_knows_stands_in_one_place(project):
    """And is not the one that it is imported by, which on PyPI is another project's."""
    assert entries("kernels/build/settings.py", r'^DISTRIBUTION = "(.*?)"') == [project["name"]] == ["minigrad-bn"]
    assert entries("asv.conf.json", r"pip uninstall -y (\S+?)\"") == [project["name"]]
    sources = [
        *(ROOT / "minigrad").rglob("*.py"),
        *(ROOT / "kernels").rglob("*.py"),
        *(ROOT / "benchmarks").rglob("*.py"),
    ]
    assert [path for path in sources if re.search(r"minigrad(-bn)?\[\w+\]'", path.read_text(encoding="utf-8"))] == []
    texts = [
        ROOT / "README.md",
        ROOT / "pyproject.toml",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs").rglob("*.ipynb"),
    ]
    assert [path for path in texts if "minigrad[" in path.read_text(encoding="utf-8")] == []


def test_recipe_has_the_bounds_of_the_project(project):
    (run,) = entries("conda/recipe.yaml", r"^  run:\n((?:    - .*\n)+)")
    needed = {**bounds(project["dependencies"]), **bounds(project["optional-dependencies"]["cli"])}
    given = bounds(re.findall(r"- (.*)", run))
    assert given.pop("python") == project["requires-python"]
    assert given == needed
    (host,) = entries("conda/recipe.yaml", r"^  host:\n((?:    - .*\n)+)")
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    assert bounds(build).items() <= bounds(re.findall(r"- (.*)", host)).items()
    assert entries("conda/recipe.yaml", r"^      - minigrad = (.*)$") == [project["scripts"]["minigrad"]]


def test_an_upper_bound_has_its_reason(project):
    """What is known to break stands in docs/stability.md; a bound that nobody can explain keeps users from what works."""
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    everything = [project["dependencies"], *project["optional-dependencies"].values()]
    upper = {name for group in everything for name, bound in bounds(group).items() if re.search("<|==|~=", bound or "")}
    assert upper == {"numba-cuda", "cuda-toolkit", "nvidia-nvjitlink", "numpy"}
    assert "numba-cuda" in page
    assert "NumPy below 2.5" in page
    assert not any(re.search("<|==|~=", bound) for bound in bounds(project["dependencies"]).values())


def test_page_on_stability_has_the_lower_bounds(project):
    page = (ROOT / "docs" / "stability.md").read_text(encoding="utf-8")
    lowest = {**bounds(project["dependencies"]), **bounds(project["optional-dependencies"]["watch"])}
    lowest |= {"typer": bounds(project["optional-dependencies"]["cli"])["typer"], "Python": project["requires-python"]}
    for name, bound in lowest.items():
        assert re.search(
            rf"^\| {name} \| {re.escape(bound.removeprefix('>='))} \|", page, re.MULTILINE | re.IGNORECASE
        ), name


def test_workflows_try_the_pythons_that_the_project_names(project):
    named = [c.rpartition(" ")[2] for c in project["classifiers"] if re.fullmatch(r".*Python :: 3\.\d+", c)]
    assert named
    assert project["requires-python"] == f">={named[0]}"
    for workflow in ("ci", "release"):
        (listed,) = entries(f".github/workflows/{workflow}.yml", r"^ +python: \[(.*)\]$")
        assert [version.strip('"') for version in listed.split(", ")] == named


def test_workflows_name_what_they_use_by_its_commit():
    """A tag can be moved to other code, a commit can not."""
    for workflow in ("ci", "release"):
        used = entries(f".github/workflows/{workflow}.yml", r"uses: (\S+)")
        assert used
        assert [u for u in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", u)] == []


def test_nothing_is_published_that_was_not_tried():
    """Each job of the release waits for the one before; only the last may ask to publish."""
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    jobs = dict(re.findall(r"^  (\w+):\n((?:    .*\n|\n)+)", text.partition("\njobs:\n")[2], re.MULTILINE))
    assert [*jobs] == ["build", "verify", "publish"]
    assert "needs: build" in jobs["verify"]
    assert "needs: verify" in jobs["publish"]
    assert [name for name, job in jobs.items() if "id-token: write" in job] == ["publish"]
    assert "minigrad verify" in jobs["verify"]
    assert "twine check --strict" in jobs["build"]
    assert jobs["build"].index("tools/ship_kernels.py") < jobs["build"].index("python -m build")


@pytest.mark.slow
def test_archive_and_wheel_pass_the_checks_of_the_index(tmp_path, project):
    """And an archive has what a wheel is made of: the wheel made from it is the same."""
    pytest.importorskip("twine")
    sources_into(tmp_path, "link")
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    code = "import setuptools.build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"
    run(sys.executable, "-c", code, cwd=tmp_path)
    files = sorted((tmp_path / "dist").iterdir())
    stem = f"{project['name'].replace('-', '_')}-{project['version']}"
    assert [file.name for file in files] == [f"{stem}-py3-none-any.whl", f"{stem}.tar.gz"]
    run(sys.executable, "-m", "twine", "check", "--strict", *files)
    with tarfile.open(files[1]) as archive:
        archived = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"CHANGELOG.md", "CITATION.cff", "LICENSE", "README.md", "pyproject.toml"} <= archived
    assert [name for name in archived if "__pycache__" in name] == []
