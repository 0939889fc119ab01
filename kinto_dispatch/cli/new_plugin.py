"""``kinto-dispatch new-plugin``: ten minutes from an idea to a channel."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from importlib.metadata import version
from pathlib import Path

import rich_click as click

from kinto_dispatch.cli.exits import FAILED, leave
from kinto_dispatch.cli.printing import note


PREFIX = "kinto-dispatch-"

NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "src/{package}/__init__.py": "init.py",
    "src/{package}/client.py": "client.py",
    "src/{package}/message.py": "message.py",
    "tests/test_{package}.py": "test_channel.py",
}
"""What is written, and the template that each file is made from."""


@click.command()
@click.argument("name")
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=".",
    show_default=True,
    help="Where to put the new directory.",
)
def command(name: str, directory: Path) -> None:
    """Write the package of a new channel plugin: kinto-dispatch-NAME, with both hooks and tests.

    It works as it is, over HTTP; change it to what you need. Nothing is downloaded, and nothing
    that exists is overwritten.
    """
    name = name.removeprefix(PREFIX)
    if not NAME.fullmatch(name):
        raise click.BadParameter(
            f"{name!r} is no name for a plugin; write small letters and digits, with single "
            "hyphens between words, as in my-chat.",
            param_hint="NAME",
        )
    target = directory / f"{PREFIX}{name}"
    if target.exists():
        note(f"{target} exists already; nothing was written.")
        leave(FAILED)
    write(target, describe(name))
    click.echo(target)
    note(
        f"Next: cd {target}; python -m venv .venv; "
        ".venv/bin/pip install -e '.[test]'; .venv/bin/pytest. Its README says more."
    )


def describe(name: str) -> Mapping[str, str]:
    """What the templates are filled with."""
    words = name.split("-")
    return {
        "name": name,
        "distribution": f"{PREFIX}{name}",
        "package": f"{PREFIX}{name}".replace("-", "_"),
        "noun": "".join(word.capitalize() for word in words),
        "title": " ".join(word.capitalize() for word in words),
        "core_version": version("kinto-dispatch"),
    }


def write(target: Path, values: Mapping[str, str]) -> None:
    """Make the directory with all its files. Raises ``FileExistsError`` if it is there."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    templates = resources.files("kinto_dispatch.cli") / "templates"
    target.mkdir(parents=True)
    for path, template in FILES.items():
        text = (templates / f"{template}.j2").read_text(encoding="utf-8")
        file = target / path.format_map(values)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(environment.from_string(text).render(values), encoding="utf-8")
    (target / f"src/{values['package']}/py.typed").touch()
