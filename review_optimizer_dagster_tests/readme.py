"""The README's generated part: `python -m review_optimizer_dagster_tests.readme` writes it anew."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path

from review_optimizer_dagster.template import settings_reference

README = Path(__file__).parents[1] / "README.md"
_BEGIN, _END = "<!-- settings: generated -->", "<!-- settings: end -->"


def with_reference(text: str) -> str:
    """A README with the reference of the settings as they are now.

    Raises ValueError where the marks that it stands between are missing.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"no part between {_BEGIN} and {_END}")
    return f"{before}{begin}\n\n{settings_reference()}\n{end}{after}"


def fenced(text: str) -> list[str]:
    """The code blocks of a Markdown text, without their fences."""
    found = re.findall(r"^( *)```[a-z]*\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def commands(text: str, program: str) -> list[list[str]]:
    """What follows a program's name on the lines of the code blocks, as a shell splits it."""
    found = []
    for block in fenced(text):
        has_prompts = "$ " in block  # then the other lines are what was printed
        for line in block.replace("\\\n", " ").splitlines():
            if has_prompts and not line.startswith("$ "):
                continue
            if not re.match(rf"(\$ )?(uv run |uv sync|{program}\b)", line.strip()):
                continue
            split = shlex.shlex(line, posix=True, punctuation_chars=True)
            split.whitespace_split = True
            words = list(split)
            ends = [at for at, word in enumerate(words) if set(word) <= set("|&;<>")]
            for begin, end in itertools.pairwise([-1, *ends, len(words)]):
                part = words[begin + 1 : end]
                if program in part[:3]:
                    found.append(part[part.index(program) + 1 :])
    return found


def anchors(text: str) -> set[str]:
    """The anchors that a Markdown reader gives a text's headings."""
    plain = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", plain, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


if __name__ == "__main__":
    README.write_text(with_reference(README.read_text(encoding="utf-8")), encoding="utf-8")
