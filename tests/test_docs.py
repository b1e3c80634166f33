"""What the pages show as Python runs without a warning, by copy and paste from top to bottom."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
PAGES = {path.name: BLOCK.findall(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.md"))}
PAGES = {name: [b for b in blocks if not b.startswith(">>>")] for name, blocks in PAGES.items()}  # those are doctests


@pytest.mark.parametrize("page", [name for name, blocks in PAGES.items() if blocks])
def test_code_on_the_page_runs(page, tmp_path):
    script = tmp_path / "page.py"
    script.write_text("\n".join(PAGES[page]), encoding="utf-8")
    command = [sys.executable, "-W", "error", str(script)]
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
