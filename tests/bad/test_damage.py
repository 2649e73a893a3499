"""Any damage to the newest checkpoint costs a step, never the run: the one before is taken, and the end is the same.

Run: pytest tests/bad/test_damage.py
"""

import pytest

pytestmark = pytest.mark.smoke
FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "COMMIT.json",
)


def test_the_table_has_every_file_of_a_checkpoint(kitchen):
    assert {path.name for path in (kitchen.runs / "stopped" / "checkpoint-4").iterdir()} == set(FILES)


@pytest.mark.parametrize("damage", ["missing", "cut", "emptied", "flipped"])
@pytest.mark.parametrize("name", FILES)
def test_damage_to_the_newest_checkpoint(kitchen, name, damage):
    victim = kitchen.runs / "stopped" / "checkpoint-4" / name
    content = victim.read_bytes()
    middle = len(content) // 2
    if damage == "missing":
        victim.unlink()
    elif damage == "cut":
        victim.write_bytes(content[:middle])
    elif damage == "emptied":
        victim.write_bytes(b"")
    else:
        victim.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])

    code, said = kitchen.resume("stopped")

    assert code == 0, said
    assert "warning: checkpoint-4: " in said and "moved to broken-checkpoint-4" in said
    assert "resuming at step 3" in said
    assert kitchen.adapter("stopped") == kitchen.adapter("finished")
    assert (kitchen.runs / "stopped" / "broken-checkpoint-4").is_dir()
