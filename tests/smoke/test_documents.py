"""What the documents say one can do, done. Run: pytest tests/smoke/test_documents.py"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke
ROOT = Path(__file__).resolve().parents[2]


def test_the_worked_example_of_a_recipe_trains_and_is_short(tmp_path):
    page = (ROOT / "docs" / "add-a-recipe.md").read_text(encoding="utf-8")
    files = dict(re.findall(r"^## \d\. [^`\n]*`([^`]+)`\n.*?^```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL))
    assert list(files) == ["recipes/letters.yaml", "python/train_letters.py", "tests/smoke/test_letters.py"]
    assert sum(text.count("\n") for text in files.values()) <= 100

    clone = tmp_path / "clone"
    for part in ("python", "recipes", "tests/smoke", "tests/conftest.py", "pyproject.toml", "requirements.lock"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        (clone / part).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / part, clone / part)
    for name, text in files.items():
        (clone / name).write_text(text, encoding="utf-8")
    for words in (["check", "-q"], ["format", "-q", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *words, *list(files)[1:]], cwd=clone, check=True)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RECETARIO_", "PYTEST_"))}
    test = [sys.executable, "-m", "pytest", "tests/smoke/test_letters.py"]
    done = subprocess.run(test, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr
