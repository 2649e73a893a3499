"""Every bad input from 1 to 90 has its test: a folder here, a function here, or a test of the part that answers."""

import re
from pathlib import Path

HERE = Path(__file__).parent
ELSEWHERE = {
    78: ("tests/unit/test_runs.py", "test_out_of_memory_needs_evidence"),
    79: ("tests/unit/test_runs.py", "test_a_reboot_is_told_from_a_kill"),
    80: ("tests/scripts/test_launchers.py", "test_twenty_starts_have_one_winner"),
    83: ("tests/scripts/test_launchers.py", "test_a_closing_terminal_and_a_hangup_do_not_end_it"),
    88: ("tests/unit/test_runs.py", "test_a_zombie_is_dead"),
}


def test_every_case_from_1_to_90_is_tested():
    folders = {int(path.parent.name[:2]) for path in HERE.glob("*/expect.json")}
    functions = set()
    for path in HERE.glob("test_*.py"):
        functions |= {int(number) for number in re.findall(r"^def test_(\d\d)_", path.read_text(), re.MULTILINE)}
    for path, name in ELSEWHERE.values():
        assert re.search(rf"^def {name}\(", (HERE.parents[1] / path).read_text(), re.MULTILINE), name
    assert folders | functions | set(ELSEWHERE) == set(range(1, 91))
