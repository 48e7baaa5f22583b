"""What the project promises of itself: its size, its layers, its settings."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "review_optimizer_dagster"


def test_fewer_than_ten_run_time_dependencies() -> None:
    """Fast installation is a promise; extras are free."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert 0 < len(project["dependencies"]) < 10


def test_fewer_than_eight_core_files() -> None:
    """The domain stays small enough to be read in one sitting."""
    modules = [path for path in (PACKAGE / "core").glob("*.py") if path.name != "__init__.py"]
    assert 0 < len(modules) < 8


def test_core_does_not_know_dagster_or_storage() -> None:
    """The domain runs without the orchestrator: importing it must not bring Dagster in."""
    names = [path.stem for path in (PACKAGE / "core").glob("*.py")]
    code = "import sys\n" + "".join(
        f"import review_optimizer_dagster.core.{name}\n" for name in names if name != "__init__"
    )
    code += (
        "bad = [m for m in sys.modules if m.split('.')[0] == 'dagster' or "
        "m.startswith(('review_optimizer_dagster.defs', 'review_optimizer_dagster.storage'))]\n"
        "print(bad)\nsys.exit(bool(bad))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_sql_stands_in_storage_alone() -> None:
    """One place with SQL; the sample's and the prompt's words do not count as SQL."""
    offenders = [
        str(path.relative_to(ROOT))
        for path in PACKAGE.rglob("*.py")
        if path.parent.name != "storage"
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.lstrip(" \"'f(").startswith(
            ("SELECT ", "INSERT INTO", "DELETE FROM", "CREATE TABLE")
        )
    ]
    assert offenders == []


@pytest.mark.parametrize("name", ["pyproject.toml", "setup.cfg", "workspace.yaml"])
def test_settings_files_are_there(name: str) -> None:
    """Each tool that loads the project finds its file."""
    assert (ROOT / name).is_file()


def test_every_data_file_is_in_the_wheel(tmp_path: Path) -> None:
    """A wheel without its word lists would fail at the first review."""
    subprocess.run(
        ["uv", "build", "--wheel", "-q", "--offline", "-o", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    import zipfile

    packed = set(zipfile.ZipFile(wheel).namelist())
    data = {
        str(path.relative_to(ROOT))
        for suffix in ("*.toml", "*.sql", "*.yaml", "*.html", "*.css", "*.js")
        for path in PACKAGE.rglob(suffix)
    }
    assert data <= packed
