"""Makefile, setup, demo and the manners every script shares. Run: pytest tests/scripts/test_front_desk.py"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from clones import PROJECT, wait_for

SCRIPTS = sorted(path.name for path in (PROJECT / "scripts").glob("*.sh") if path.name != "lib.sh")
TARGETS = re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)


# Manners


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_and_unknown_options(clone, script):
    before = sorted(clone.root.rglob("*"))
    answer = clone.run(f"scripts/{script}", "--help")
    assert answer.returncode == 0 and answer.stdout.startswith("usage: scripts/") and answer.stderr == ""
    if script != "test.sh":  # its options are pytest's
        answer = clone.run(f"scripts/{script}", "--colour", RECIPE="fake")
        assert answer.returncode == 64 and "--colour" in answer.stderr and "Traceback" not in answer.stderr
    after = [path for path in sorted(clone.root.rglob("*")) if "__pycache__" not in str(path)]
    assert after == before


def test_scripts_are_executable_and_the_library_is_not():
    modes = {path.name: os.access(path, os.X_OK) for path in (PROJECT / "scripts").glob("*.sh")}
    assert modes == {name: name != "lib.sh" for name in modes}
    assert os.access(PROJECT / ".ci" / "run", os.X_OK)


def test_scripts_work_from_any_folder(clone, tmp_path):
    answer = subprocess.run(
        [clone.root / "scripts" / "train.sh"], cwd=tmp_path, env=clone.environment(RECIPE="fake"), check=False
    )
    assert answer.returncode == 0 and (clone.runs / "fake" / "status.json").is_file()


def test_a_missing_environment_is_69_and_names_the_remedy(clone):
    answer = clone.run("scripts/call.sh", "status", RECETARIO_PYTHON="")
    assert answer.returncode == 69 and answer.stderr.strip().endswith("make setup")


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_odd_surroundings(clone, locale):
    environment = {"PATH": os.environ["PATH"], "LC_ALL": locale, "RECETARIO_PYTHON": sys.executable, "TZ": "Nowhere/X"}
    for command in (["make", "train", "RECIPE=fake"], ["make", "status"]):  # no HOME, no TERM
        answer = subprocess.run(command, cwd=clone.root, env=environment, capture_output=True, check=False)
        assert answer.returncode == 0, answer.stderr.decode()


# make


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_environment_is_activated_in_the_shell_that_sources_it(clone, shell):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = f"'{clone.root}/scripts/activate_env.sh'"
    ask = f"cd /; set -u; source {script}; echo code $? in $VIRTUAL_ENV_PROMPT; typeset -f recetario_activate"
    answer = clone.run(shell, "-c", ask, VIRTUAL_ENV_PROMPT="none")
    assert answer.stdout == "code 69 in none\n" and "make setup" in answer.stderr

    (clone.root / ".venv" / "bin").mkdir(parents=True)
    (clone.root / ".venv" / "bin" / "activate").write_text(
        f"VIRTUAL_ENV_PROMPT=ours; PATH='{clone.root}/.venv/bin':$PATH"
    )
    (clone.root / ".venv" / "bin" / "python").write_text('#!/bin/sh\necho "python ${1##*/} $2"\n')
    (clone.root / ".venv" / "bin" / "python").chmod(0o755)
    answer = clone.run(shell, "-c", ask, VIRTUAL_ENV_PROMPT="none")
    assert answer.stdout == "python debug_model.py --environment\ncode 0 in ours\n", answer.stderr

    answer = clone.run(shell, f"{clone.root}/scripts/activate_env.sh")
    assert answer.returncode == 64 and "must be sourced" in answer.stderr


def test_help_lists_every_target_with_a_text(clone):
    listed = dict(re.findall(r"^  ([a-z0-9-]+)  +(\S.*)$", clone.run("make").stdout, re.MULTILINE))
    assert sorted(listed) == sorted(TARGETS) and len(TARGETS) > 15
    assert all(len(text) > 5 for text in listed.values())


def test_every_target_is_one_line_and_what_it_calls_exists():
    for target in TARGETS:
        dry = subprocess.run(["make", "-n", target], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
        (line,) = dry.splitlines()
        words = line.split()
        assert (PROJECT / words[0]).is_file() or words[0] == "awk"
        if words[0] == "scripts/call.sh":
            assert (PROJECT / "python" / f"{words[1]}.py").is_file(), f"make {target}"


def test_every_option_of_a_target_is_one_of_its_command():
    for name, pairs in re.findall(r"scripts/call\.sh (\w+)(.*)", (PROJECT / "Makefile").read_text()):
        command = [sys.executable, PROJECT / "python" / f"{name}.py", "--help"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for option in set(re.findall(r"=(--[a-z0-9_-]+)", pairs)) - {"--token"}:  # which every command refuses
            assert re.search(rf"{option}\b", text), f"{name} has no {option}"


def test_values_never_pass_through_a_shell(clone):
    for value in ("$$(touch pwned)", "a;touch pwned", "`touch pwned`", "x' touch pwned '", "-rf", "../x"):
        assert clone.run("make", "train-cpu-background", f"RUN={value}").returncode != 0
    for target in ("status", "logs", "stop", "resume", "clean"):
        assert clone.run("make", target, "RUN=a;touch pwned").returncode != 0
    assert not list(clone.root.rglob("pwned")) and not clone.runs.exists()


def test_smoke_and_paths_with_spaces_reach_the_command(clone):
    output = clone.root / "out put"
    answer = clone.run("make", "train-cpu", "SMOKE=1", f"OUTPUT={output}", "RECIPE=fake")
    assert answer.returncode == 0, answer.stderr
    assert (clone.runs / "fake-smoke").resolve() == output
    assert "SMOKE is 1 or 0" in clone.run("make", "train-cpu", "SMOKE=yes").stderr
    answer = clone.run("make", "train-cpu")
    assert answer.returncode == 0 and (clone.runs / "ba-cpu" / "status.json").is_file()
    answer = clone.run("make", "train")
    assert "recipes: ba-cpu, demo, fake" in answer.stderr


def test_the_sample_data_of_a_recipe_are_what_it_trains_on(clone):
    """frIdA's are sources first: formatted and split, once."""
    folder = clone.runs / "data" / "frida-h100"
    answer = clone.run("make", "data", "RECIPE=frida-h100")
    assert answer.returncode == 0, answer.stderr
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {"formatted_data.jsonl", "train.jsonl", "validation.jsonl"} <= {path.name for path in before}
    assert clone.run("make", "data", "RECIPE=frida-h100").returncode == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "train.jsonl").write_text("mine\n")
    assert clone.run("make", "data", "RECIPE=frida-h100").returncode == 0
    assert (folder / "train.jsonl").read_text() == "mine\n"
    assert clone.run("make", "data", "RECIPE=frida-h100", "FORCE=1").returncode == 0
    assert (folder / "train.jsonl").stat().st_size > 10_000


def test_lint_finds_and_format_mends(clone):
    shutil.rmtree(clone.root / "python")
    shutil.copy(PROJECT / "pyproject.toml", clone.root)
    shutil.copytree(PROJECT / ".ci", clone.root / ".ci")
    clean = clone.run("make", "lint")
    assert clean.returncode == 0, clean.stdout + clean.stderr
    (clone.root / "untidy.py").write_text("import os\nx = {  'a':1 }\n")
    (clone.root / "scripts" / "untidy.sh").write_text("#!/usr/bin/env bash\nif true; then\n        rm $1\nfi\n")
    (clone.root / "notes.md").write_text("my token: hf" + "_" + "Ab3" * 12)
    found = clone.run("make", "lint").stdout
    assert all(
        words in found for words in ("F401", "1 file would be reformatted", "SC2086", "+  rm $1", "./notes.md:1")
    ), found
    clone.run("make", "format")
    assert (clone.root / "untidy.py").read_text() == 'x = {"a": 1}\n'
    assert "\n  rm $1\n" in (clone.root / "scripts" / "untidy.sh").read_text()


# setup


@pytest.fixture
def bare(clone):
    """A clone whose environment is empty but for pip, so that the real installation takes seconds."""
    (clone.root / "requirements.txt").write_text("# nothing\n")
    (clone.root / "requirements.lock").write_text("# nothing\n")
    return clone


def set_up(clone, **variables):
    return clone.run("scripts/setup.sh", PYTHON=sys.executable, RECETARIO_PYTHON="", **variables)


def test_setup_anew_when_unfinished_quick_when_done_and_in_place_when_changed(bare):
    python = bare.root / ".venv" / "bin" / "python"
    requirements = bare.root / "requirements.txt"
    requirements.write_text(f"{bare.root}/no-such-package.whl\n")
    failed = set_up(bare)
    assert failed.returncode == 69 and "could not be installed" in failed.stderr
    (bare.root / ".venv" / "rest-of-it").touch()

    requirements.write_text("# nothing\n")
    answer = set_up(bare)
    assert answer.returncode == 0 and "making it anew" in answer.stderr
    assert python.exists() and not (bare.root / ".venv" / "rest-of-it").exists()

    seconds = []
    for _ in range(3):
        began = time.monotonic()
        assert set_up(bare).returncode == 0
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.5

    before = python.lstat().st_ino
    requirements.write_text("# something else\n")
    assert "installing packages" in set_up(bare).stderr
    assert python.lstat().st_ino == before


def make_torch_index(folder, version):
    """Write a package index that has one torch, empty, of this version; return its URL."""
    wheel = folder / "torch" / f"torch-{version}-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", f"{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    (wheel.parent / "index.html").write_text(f'<a href="{quote(wheel.name)}">{wheel.name}</a>')
    return folder.as_uri()


def test_setup_keeps_to_the_index_that_torch_came_from(bare):
    """Else the next make train, where the variable is not set, brings the CUDA build after all."""
    index = make_torch_index(bare.root / "index", "0.0.1")
    (bare.root / "requirements.lock").write_text("torch==0.0.1\n")

    answer = set_up(bare, TORCH_INDEX_URL=index)
    assert answer.returncode == 0, answer.stderr
    (installed,) = (bare.root / ".venv").glob("lib/*/site-packages/torch-*.dist-info")
    assert "installing" not in set_up(bare).stderr
    shutil.rmtree(installed)
    (bare.root / "requirements.txt").write_text("# something else\n")
    assert set_up(bare).returncode == 0 and installed.is_dir()
    (bare.root / ".venv" / "recetario-unfinished").write_text(f"torch from the index {index}\n")  # killed
    (bare.root / ".venv" / "recetario-installed").unlink()
    assert "making it anew" in set_up(bare).stderr and installed.is_dir()
    assert "installing" in set_up(bare, TORCH_INDEX_URL="").stderr
    assert "torch from the default index" in (bare.root / ".venv" / "recetario-installed").read_text()


@pytest.mark.parametrize("linked", [False, True])
def test_setup_takes_torch_from_another_index_where_one_is_named(bare, tmp_path, linked):
    """pip keeps what is installed of the same version, so the environment is made anew; a link goes, not its target."""
    indexes = [make_torch_index(bare.root / build, f"0.0.1+{build}") for build in ("a", "b")]
    (bare.root / "requirements.lock").write_text("torch==0.0.1\n")
    place, kept = bare.root / ".venv", tmp_path / "kept"
    for build, index in zip("ab", indexes, strict=True):
        answer = set_up(bare, TORCH_INDEX_URL=index)
        assert answer.returncode == 0, answer.stderr
        assert ("torch comes from elsewhere now: making it anew" in answer.stderr) == (build == "b")
        (installed,) = place.glob("lib/*/site-packages/torch-*.dist-info")
        assert installed.name == f"torch-0.0.1+{build}.dist-info"
        if linked and build == "a":
            place.rename(kept)
            place.symlink_to(kept)
    assert "making" not in set_up(bare).stderr and "making" not in set_up(bare, TORCH_INDEX_URL=indexes[1]).stderr
    assert not linked or (kept / "recetario-installed").is_file() and not (kept / "recetario-unfinished").exists()


def test_what_only_uses_the_environment_does_not_make_it_anew_and_an_activated_one_is_not_made_by_itself(bare):
    indexes = [make_torch_index(bare.root / build, f"0.0.1+{build}") for build in ("a", "b")]
    (bare.root / "requirements.lock").write_text("torch==0.0.1\n")
    assert set_up(bare, TORCH_INDEX_URL=indexes[0]).returncode == 0
    variables = {"RECETARIO_PYTHON": "", "TORCH_INDEX_URL": indexes[1]}
    answer = bare.run("scripts/setup.sh", "--quiet", PYTHON=sys.executable, **variables)
    assert answer.returncode == 69 and "is not where .venv has torch from" in answer.stderr
    assert "installing" not in set_up(bare).stderr, "it is as it was"
    activated = f"{bare.root}/.venv/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
    answer = bare.run("scripts/setup.sh", PATH=activated, **variables)
    assert answer.returncode == 0, answer.stderr
    own = bare.run("scripts/setup.sh", PYTHON=".venv/bin/python", **variables | {"TORCH_INDEX_URL": indexes[0]})
    assert own.returncode == 69 and "the environment's own" in own.stderr


def test_setup_several_at_once_make_one_environment(bare):
    variables = {"PYTHON": sys.executable, "RECETARIO_PYTHON": ""}
    everyone = [bare.start("scripts/setup.sh", **variables) for _ in range(3)]
    answers = [process.communicate(timeout=60)[1] for process in everyone]
    assert [process.returncode for process in everyone] == [0, 0, 0], answers
    assert sum("making .venv" in answer for answer in answers) == 1
    assert sum("waiting for it" in answer for answer in answers) == 2


def test_setup_refuses_an_old_python_and_a_folder_that_is_not_its_own(bare):
    answer = bare.run("scripts/setup.sh", PYTHON="/bin/false")
    assert answer.returncode == 69 and "no Python 3.11 or newer" in answer.stderr
    (bare.root / ".venv").mkdir()
    (bare.root / ".venv" / "thesis.txt").touch()
    answer = set_up(bare)
    assert answer.returncode == 69 and (bare.root / ".venv" / "thesis.txt").exists()


# demo


@pytest.fixture
def demo(clone):
    """A clone in which the demo recipe trains nothing and the comparison only says that it was called."""
    (clone.root / "python" / "compare_ba_models.py").write_text("import sys\nprint('compared', *sys.argv[1:])\n")
    return clone


def test_demo_runs_once_and_then_knows(demo):
    answer = demo.run("make", "demo", RUN="other", SMOKE=1)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith("compared --run demo\n") and "run 'demo' is completed" in answer.stdout
    again = demo.run("make", "demo")
    assert (
        again.returncode == 0 and "trained already" in again.stderr and again.stdout.endswith("compared --run demo\n")
    )
    assert sorted(path.name for path in demo.runs.iterdir()) == ["demo"]

    with (demo.root / "recipes" / "demo.yaml").open("a") as recipe:
        recipe.write("method:\n  rank: 3\n")
    changed = demo.run("make", "demo")
    assert changed.returncode == 0 and "trained anew" in changed.stderr
    assert "method.rank: the run has 8, the recipe 3" in changed.stdout
    assert len(list(demo.runs.glob("demo-2*/run.json"))) == 1


def test_demo_goes_on_where_it_was_interrupted(demo):
    slow = "import sys\nsys.argv += ['--set', 'steps=160', '--set', 'step_s=0.05']\n"
    command = demo.root / "python" / "fake_training.py"
    command.write_text(command.read_text().replace('if __name__ == "__main__":', slow + 'if __name__ == "__main__":'))
    process = demo.start("make", "demo")
    wait_for(lambda: demo.runs.is_dir() and (demo.runs / "demo" / "step").exists())
    time.sleep(0.5)  # by now it watches
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode != 0 and "goes on in the background" in errors
    assert demo.status("demo")["running"]

    assert demo.run("make", "stop").returncode == 0
    answer = demo.run("make", "demo")
    assert answer.returncode == 0, answer.stderr
    assert "run demo goes on" in answer.stdout and answer.stdout.endswith("compared --run demo\n")
    log = demo.read("demo", "train.log")
    assert log.count("training from step 0") == 1 and log.count("training from step") == 2


# The repository itself


def test_no_tracked_file_is_ignored():
    """Linters and packagers skip what .gitignore names, so a tracked file there is one that nobody checks."""
    if not (PROJECT / ".git").exists():
        pytest.skip("this is no git checkout")
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True).stdout == ""


def test_make_targets_named_in_messages_exist():
    """Every `make x` in a message, help text or document of ours names a target there is."""
    sources = [*(PROJECT / "python").rglob("*.py"), *(PROJECT / "scripts").iterdir(), *PROJECT.glob("*.md")]
    for source in sources:
        for target in re.findall(r"(?:`|: |, |; )make ([a-z0-9-]+)\b", source.read_text(encoding="utf-8")):
            if target not in ("a", "it", "one", "sure", "the", "their"):
                assert target in TARGETS, f"{Path(source).relative_to(PROJECT)}: make {target}"
