"""The command `review-optimizer init`: a commented tenants.toml, which makes a home a real one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import add_json
from review_optimizer_dagster.commands.json_output import write_json
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home

_DESCRIPTION = """Writes a commented tenants.toml with every setting and its default into the home,
which must be empty: demo data and yours never mix."""
_EXAMPLES = """
REVIEW_OPTIMIZER_HOME=~/reviews review-optimizer init
review-optimizer init --json
"""


def add_init(commands: Any) -> None:
    """Add the command to a parser's."""
    init = commands.add_parser(
        "init",
        help="write a commented tenants.toml and make a real home",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    add_json(init, "what was written")


def init_command(home: Home, options: argparse.Namespace) -> int:
    """Write a commented tenants.toml."""
    from review_optimizer_dagster.commands.consoles import console
    from review_optimizer_dagster.config import HOME_VARIABLE
    from review_optimizer_dagster.template import commented_settings

    if not home.is_demo:
        raise UserError(f"{home.tenants_file} is there already; edit it")
    if (home.folder / "home.json").exists():
        raise UserError(
            f"{home.folder} holds demo data, which must not be mixed with real tenants: set "
            f"{HOME_VARIABLE} to another, empty folder"
        )
    home.folder.mkdir(parents=True, exist_ok=True)
    home.tenants_file.write_text(commented_settings(), encoding="utf-8")
    console().print(
        f"wrote {home.tenants_file}\nNext: name your tenants there, put files into "
        f"{home.inbox}/TENANT/YYYY-MM-DD/, export the key, and run `review-optimizer run`.",
        markup=False,
        soft_wrap=True,
    )
    write_json(options.json, {"home": home.folder, "tenants_file": home.tenants_file})
    return 0
