"""Build all wheels, install them into an empty environment, and run the main job from there.

What is tested elsewhere is the checkout; what people install is this. Run by ``make wheels``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path


ROOT = Path(__file__).parents[2]
PLUGINS = sorted((ROOT / "plugins").iterdir())


def main() -> None:
    """Exit with an error at the first step that fails."""
    with tempfile.TemporaryDirectory(prefix="kinto-dispatch-wheels-") as name:
        outside = Path(name)
        wheels = build(outside / "wheels")
        python = install(outside / "environment", wheels)
        check_plugins(python, outside)
        run([python, "-m", "kinto_dispatch", "demo"], outside)
    print(f"{len(wheels)} wheels, installed outside the checkout: the main job passed.")


def build(directory: Path) -> list[Path]:
    """The wheels of the core and of every plugin."""
    build_one = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "-o", str(directory)]
    for project in (ROOT, *PLUGINS):
        run([*build_one, str(project)], ROOT)
    return sorted(directory.glob("*.whl"))


def install(directory: Path, wheels: list[Path]) -> str:
    """The Python of a new environment that holds the wheels and what they ask for."""
    venv.create(directory, with_pip=True)
    python = str(directory / "bin/python")
    core = next(wheel for wheel in wheels if wheel.name.startswith("kinto_dispatch-"))
    others = [str(wheel) for wheel in wheels if wheel != core]
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run([*pip, "-c", str(ROOT / "constraints.txt"), f"{core}[demo]", *others], directory)
    return python


def check_plugins(python: str, outside: Path) -> None:
    """Every plugin is found through its entry point."""
    listing = run([python, "-m", "kinto_dispatch", "plugins", "--json"], outside)
    found = {plugin["distribution"] for plugin in json.loads(listing)}
    missing = {project.name for project in PLUGINS} - found
    assert not missing, f"not found through their entry points: {sorted(missing)}"


def run(command: list[str], directory: Path) -> str:
    """Run it outside the checkout; its output, also on the terminal if it fails."""
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=600)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
