"""What the pages show as Python runs without a warning, by copy and paste from top to bottom."""

import re
from pathlib import Path

import pytest
from helpers import run_program

FOLDER = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = {path.name: BLOCK.findall(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.md"))}
PAGES = {name: [b for b in blocks if not b.startswith(">>>")] for name, blocks in PAGES.items()}  # those are doctests


@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
def test_code_on_the_page_runs(page, tmp_path):
    run_program("\n".join(PAGES[page]), folder=tmp_path)
