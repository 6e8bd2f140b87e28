"""What a reader is told: README.md and the pages of docs/, their headings, blocks and links."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *DOCS]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#{1,6}) (.+)$")
CODE = re.compile(r"(`+).+?\1")
LINK = re.compile(r"\]\(([^()\s]+)\)")


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and text of each fenced block, in order."""
    return FENCE.findall(text)


def prose(text: str) -> str:
    """A page's text without its fenced blocks: a comment in one is no heading, a bracket no link."""
    return FENCE.sub("", text)


def section(heading: str) -> str:
    """What stands under a heading, on the one page that has it, up to the next heading of its level or above."""
    found = []
    for page in PAGES:
        level, inside, lines = 0, False, []
        for line in read(page).splitlines(keepends=True):
            inside ^= line.startswith("```")
            title = None if inside else HEADING.match(line.rstrip())
            if title and level and len(title[1]) <= level:
                break
            if level:
                lines.append(line)
            elif title and title[2] == heading:
                level = len(title[1])
        if level:
            found.append("".join(lines))
    assert len(found) == 1, f"{len(found)} pages have the heading {heading!r}"
    return found[0]


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to a page's headings: lower case, no punctuation, hyphens, and a number if met again."""
    names: set[str] = set()
    for line in prose(text).splitlines():
        if title := HEADING.match(line):
            plain = LINK.sub("]", title[2]).strip().lower()
            name = first = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            again = 0
            while name in names:
                again += 1
                name = f"{first}-{again}"
            names.add(name)
    return names


def links(text: str) -> list[str]:
    """Where a page's links and pictures lead, other sites left out."""
    found = LINK.findall(CODE.sub("", prose(text)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def broken(page: Path) -> list[str]:
    """The relative links of a page that lead to no file, or to no heading of it."""
    wrong = []
    for link in links(read(page)):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(read(target))):
            wrong.append(link)
    return wrong
