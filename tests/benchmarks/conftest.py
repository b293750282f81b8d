import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

collect_ignore_glob = [] if (ROOT / "benchmarks").is_dir() else ["test_*.py"]  # where only the tests lie
if str(ROOT) not in sys.path:
    sys.path.append(
        str(ROOT)
    )  # the benchmarks are not installed; at the end: an installed minigrad stays the one tested
