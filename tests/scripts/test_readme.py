"""README.md and README.es.md: their commands exist, their files are there, and the two say the same.

Run: pytest tests/scripts/test_readme.py
"""

import os
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


PAGES = [PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_of_the_other_pages_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert not [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    paths = re.findall(r"`((?:python|scripts|recipes|tests|docs)/[\w./-]+)`", text)
    built = {"recipes/letters.yaml", "python/train_letters.py", "tests/smoke/test_letters.py"}  # docs/add-a-recipe.md
    assert not [path for path in paths if not (PROJECT / path).exists() and path not in built]


@pytest.mark.parametrize("text", TWINS, ids=["english", "spanish"])
def test_the_file_tree_is_the_projects(text):
    (tree,) = re.findall(r"^```\n(Makefile .*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in tree.splitlines():
        assert (PROJECT / line.split()[0]).exists() or line.startswith("runs/"), line


def test_the_spanish_page_is_in_step():
    """The same headings, commands, links and figures in each section: what is added to one is missed in the other."""
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


# Every command of the README is run by a test: here, or where it is tested for more than that it runs.
HERE = ("data", "inspect", "status", "runs", "report", "logs", "publish", "stop", "debug-model")
ELSEWHERE = {
    "demo": "scripts/test_front_desk.py", "train-cpu-background": "scripts/test_launchers.py",
    "resume": "scripts/test_launchers.py", "watch": "unit/test_watching.py", "tensorboard": "unit/test_watching.py",
    "optimize": "smoke/test_compare.py", "compare": "smoke/test_compare.py", "chat": "smoke/test_out_of_the_house.py",
    "export": "smoke/test_out_of_the_house.py", "reproduce": "smoke/test_soak.py", "soak": "smoke/test_soak.py",
    "plan": "unit/test_planning.py", "doctor": "unit/test_commands.py", "pipeline": "smoke/test_medical.py",
    "train-cpu": "scripts/test_front_desk.py", "train-h100": "smoke/test_main.py",
    "test-model": "smoke/test_talking.py", "test": "scripts/test_front_desk.py", "train": "scripts/test_front_desk.py",
    "train-peft-v3": "smoke/test_trl.py", "clean": "scripts/test_launchers.py",
}  # fmt: skip


def target_of(command: str) -> str:
    return command.split()[1]


@pytest.mark.parametrize(("command", "comment"), [pair for pair in COMMANDS if pair[0].startswith("make ")])
def test_every_make_command_is_run_by_a_test_or_says_what_it_needs(command, comment):
    target = target_of(command)
    if target in HERE or any(mark in comment for mark in MARKS):
        return
    (called,) = re.findall(r"scripts/(?:call\.sh )?([\w.]+)", recipe_of(target).splitlines()[0])[:1]
    text = (PROJECT / "tests" / ELSEWHERE[target]).read_text(encoding="utf-8")
    names = (called.removesuffix(".sh"), called.removesuffix(".py"), f'"{target}"')
    assert any(name in text for name in names), f"{ELSEWHERE[target]} runs no {names}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs in which a short one called demo is finished, as the README's lines expect."""
    folder = tmp_path_factory.mktemp("runs")
    done = make("make train RECIPE=demo SMOKE=1 RUN=demo", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def make(command: str, runs) -> subprocess.CompletedProcess:
    dropped = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "RECETARIO_LAUNCH")
    inherited = {key: value for key, value in os.environ.items() if key not in dropped}
    environment = inherited | {"RECETARIO_RUNS": str(runs), "RECETARIO_PYTHON": sys.executable}
    words, options = shlex.split(command), {"cwd": PROJECT, "env": environment, "stdin": subprocess.DEVNULL}
    return subprocess.run(words, capture_output=True, text=True, check=False, **options)


@pytest.mark.parametrize("command", [c for c, mark in COMMANDS if c.startswith("make ") and target_of(c) in HERE])
def test_commands_that_look_at_a_run_do_so(command, runs):
    if "REPO=" in command:
        pytest.skip("needs a model hub: smoke/test_out_of_the_house.py publishes to a stand-in")
    data = PROJECT / "recipes" / "demo" / "data"
    command = command.replace("runs/data/my", str(data))
    done = make(command, runs)
    finds_faults = target_of(command) == "debug-model" and "need attention" in done.stdout  # the GPUs, for one
    assert done.returncode == 0 or finds_faults, done.stdout + done.stderr
    assert done.stdout.strip() and "Traceback" not in done.stdout + done.stderr
