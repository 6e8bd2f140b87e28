"""README.md is short, every page of docs/ is found from it and from the index, and no link leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import DOCS, PAGES, ROOT, anchors, blocks, broken, links, prose, read, section

INDEX = ROOT / "docs" / "README.md"


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_first_page_is_short() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 250


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=short)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert not broken(page)


@pytest.mark.parametrize("start", [INDEX, ROOT / "README.md"], ids=short)
def test_every_page_is_reached(start: Path) -> None:
    reached = {(start.parent / link.partition("#")[0]).resolve() for link in links(read(start))}
    assert not {short(page) for page in {*DOCS, INDEX} - reached - {start}}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=short)
def test_a_file_that_is_named_is_there(page: Path) -> None:
    named = set(re.findall(r"\b(?:zodist|tests|configs|launch|slurm|docs)/[\w./-]*\w", read(page)))
    assert not {name for name in named if not (ROOT / name).exists()}


def test_every_picture_stands_on_a_page() -> None:
    shown = {(page.parent / link).resolve() for page in PAGES for link in links(read(page))}
    pictures = set((ROOT / "docs" / "plots").iterdir())
    assert pictures and not {short(picture) for picture in pictures - shown}


@pytest.mark.parametrize("page", PAGES, ids=short)
def test_a_page_begins_with_its_only_first_heading(page: Path) -> None:
    text = read(page)
    assert text.startswith("# ") and text.count("```") == 2 * len(blocks(text))
    assert sum(line.startswith("# ") for line in prose(text).splitlines()) == 1


def test_every_block_of_python_is_on_a_page_whose_blocks_are_run() -> None:
    """tests/test_readme.py and tests/test_readme_python.py run those of these two."""
    run = [
        block for heading in ("Your method in 40 lines", "From Python") for block in blocks(section(heading))
    ]
    everywhere = [block for page in PAGES for block in blocks(read(page))]
    assert [block for block in run if block[0] == "python"]
    assert not {text for language, text in everywhere if language == "python"} - {text for _, text in run}


def test_a_link_to_a_missing_file_or_heading_is_found(tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Two words: `x`, y\n\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text(
        "# A\n[1](b.md) [2](b.md#two-words-x-y) [3](#a) [4](https://a.b/c) `[5](c.md)`\n\n```\n[6](c.md)\n```\n"
        "[7](c.md) ![8](c.png) [9](b.md#no-heading) [10](#b)\n"
    )
    assert broken(page) == ["c.md", "c.png", "b.md#no-heading", "#b"]
    assert anchors("# A\n## A\n## The A\n") == {"a", "a-1", "the-a"}
