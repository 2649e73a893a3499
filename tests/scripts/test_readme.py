"""README.md and README.es.md: their commands exist, their files are there, and the two say the same.

Run: pytest tests/scripts/test_readme.py
"""

import re
import shlex
import subprocess
import sys

import pytest
from clones import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
SPANISH = (PROJECT / "README.es.md").read_text(encoding="utf-8")
MAKEFILE = (PROJECT / "Makefile").read_text(encoding="utf-8")
TWINS = (README, SPANISH)
MARKS = {
    "needs a model hub": "necesita un hub de modelos",
    "needs GPUs": "necesita GPU",
    "needs an Apple GPU": "necesita una GPU de Apple",
    "needs a server": "necesita un servidor",
    "needs that model": "necesita ese modelo",
}


def command_lines(text: str) -> list[tuple[str, str]]:
    """Return (command, comment) of every line in the bash blocks, continued lines joined."""
    lines = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            command, _, comment = line.partition("  #")
            lines += [(" ".join(command.split()), comment.strip())] if command.strip() else []
    return lines


COMMANDS = command_lines(README)


def recipe_of(target: str) -> str:
    """Return the lines of a make target."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found, f"make {target}: no such target"
    return found[1]


@pytest.mark.parametrize("command", [c for c, _ in COMMANDS if c.startswith("make ")])
def test_make_commands_name_a_target_and_variables_that_it_reads(command):
    target, *words = shlex.split(command)[1:]
    recipe = recipe_of(target)
    script = (PROJECT / recipe.split()[0].lstrip("@")).read_text(encoding="utf-8")
    called = [(PROJECT / name).read_text(encoding="utf-8") for name in re.findall(r"exec (scripts/\S+)", script)]
    for variable in (word.partition("=")[0] for word in words):
        assert re.search(rf"\b{variable}\b", " ".join([recipe, script, *called])), variable


@pytest.mark.parametrize("command", [c for c, _ in COMMANDS if "python python/" in c])
def test_python_commands_know_their_options(command):
    words = shlex.split(command)
    path = next(word for word in words if word.startswith("python/"))
    text = subprocess.run(
        [sys.executable, PROJECT / path, "--help"], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", text), option


@pytest.mark.parametrize("text", TWINS, ids=["english", "spanish"])
def test_links_lead_to_files_of_the_project(text):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links and not [link for link in links if not link.startswith("http") and not (PROJECT / link).exists()]


@pytest.mark.parametrize("text", TWINS, ids=["english", "spanish"])
def test_the_file_tree_is_the_projects(text):
    (tree,) = re.findall(r"^```\n(Makefile .*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in tree.splitlines():
        assert (PROJECT / line.split()[0]).exists() or line.startswith("runs/"), line


def test_the_spanish_page_is_in_step():
    """The same headings, commands, links and figures, in the same order: what is added to one is missed in the other."""
    assert [c for c, _ in command_lines(SPANISH)] == [c for c, _ in COMMANDS]
    outlines = [re.findall(r"^(#+) ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE) for text in TWINS]
    assert outlines[0] == outlines[1]
    parts = [re.split(r"^#+ ", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE) for text in TWINS]
    for english, spanish in zip(*parts, strict=True):
        heading = english.splitlines()[0] if english.strip() else "the top"
        for what, pattern in (("links", r"\]\(([^)]+)\)"), ("code", r"`([^`]+)`"), ("table rows", r"^(\|)")):
            there = [sorted(re.findall(pattern, part, re.MULTILINE)) for part in (english, spanish)]
            if what == "links":
                there = [[link for link in links if not link.startswith("README")] for links in there]
            assert there[0] == there[1], f"{what} in '{heading}'"
        figures = [sorted(re.findall(r"\d+", re.sub(r"(?<=\d)[.,](?=\d)", "", part))) for part in (english, spanish)]
        assert figures[0] == figures[1], f"figures in '{heading}'"


def test_what_needs_hardware_is_marked_alike_in_both():
    for (command, english), (_, spanish) in zip(COMMANDS, command_lines(SPANISH), strict=True):
        for mark, twin in MARKS.items():
            assert (mark in english) == (twin in spanish), command
