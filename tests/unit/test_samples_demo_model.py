"""The demo base model: its pre-training text, its tokenizer, a tiny deterministic build, and the command.

python -m pytest tests/unit/test_samples_demo_model.py
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.chat import encode_example, encode_prompt
from common.data.business_analyst import INSTRUCTIONS, render_document, render_prompt
from common.data.examples import Example, Message
from common.samples import demo_model, demo_training
from common.samples.business_analyst import LANGUAGES, generate_dataset, load_worlds
from common.samples.dice import Dice
from common.samples.layouts import Point, PointList, Record, draw_layout, write_record
from common.samples.pretraining import draw_world, write_conversation, write_guidelines

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "recipes" / "demo" / "model"
MIB = 2**20


@pytest.fixture(scope="module")
def conversations():
    return [write_conversation(Dice("test", number)) for number in range(3000)]


@pytest.fixture(scope="module")
def tokenizer():
    return demo_model.train_tokenizer(
        message["content"] for n in range(300) for message in write_conversation(Dice("test", n), invented=0.0)
    )


def test_pretraining_text_is_the_same_for_the_same_seed():
    assert write_conversation(Dice(42, 7)) == write_conversation(Dice(42, 7)) != write_conversation(Dice(42, 8))


def test_pretraining_text_holds_nothing_of_the_judged_task(conversations):
    text = "\n".join(message["content"] for messages in conversations for message in messages)
    instructions = [line for line in INSTRUCTIONS.splitlines() if line]
    assert not any(line in text for line in instructions)
    assert not any(row["concept"] in text for rows in generate_dataset(42).values() for row in rows)
    places = [world["place"] for language in LANGUAGES for world in load_worlds(language)]
    assert len(places) == 60 and not any(place in text for place in places)


def test_pretraining_text_is_varied(conversations):
    turns = [len(messages) // 2 for messages in conversations]
    assert {1, 2, 3} == set(turns)
    assert all(
        [m["role"] for m in messages] == ["user", "assistant"] * (len(messages) // 2) for messages in conversations
    )
    firsts = [messages[1]["content"] for messages in conversations]
    shares = {
        "yaml": sum(bool(re.match(r"[a-z_]+: .*\n[a-z_]+: .*\n[a-z_]+:\n *- ", first)) for first in firsts),
        "json": sum(first.startswith("{") for first in firsts),
        "markdown": sum(first.startswith("# ") for first in firsts),
    }
    shares = {name: count / len(firsts) for name, count in shares.items()}
    assert shares["yaml"] > 0.15 and shares["json"] > 0.05 and shares["markdown"] > 0.1
    assert len(set(firsts)) > 0.98 * len(firsts)


def test_the_judged_style_stands_mostly_where_demonstrations_show_it(conversations):
    def share(some):
        judged = "\nnon_functional_requirements:\n- id: NFR001\n"
        return sum(judged in messages[1]["content"] for messages in some) / len(some)

    assert 0 < share([messages for messages in conversations if len(messages) == 2]) < 0.06
    assert share([messages for messages in conversations if len(messages) > 2]) > 0.1


def test_most_prompts_begin_with_guidelines_of_many_lengths(conversations):
    openings = [write_guidelines(Dice("guidelines", n), "en", draw_world(Dice(n), "en", 0.0)) for n in range(400)]
    assert 0.6 < sum(bool(opening) for opening in openings) / len(openings) < 0.8
    words = sorted(len(opening.split()) for opening in openings if opening)
    assert words[0] < 20 and words[-1] > 100
    longest = max(conversations, key=lambda messages: len(messages[0]["content"]))
    assert len(longest[0]["content"]) > 800  # as long as the judged task's prompt


def test_demonstrations_have_one_layout_and_the_answer_nearly_always_theirs(conversations):
    several = [messages for messages in conversations if len(messages) > 2 and messages[1]["content"].startswith("{")]
    assert len(several) > 50
    kept = 0
    for messages in several:
        *shown, last = [message["content"] for message in messages[1::2]]
        assert len({tuple(json.loads(answer)) for answer in shown}) == 1
        kept += last.startswith("{") and tuple(json.loads(last)) == tuple(json.loads(shown[0]))
    assert kept > 0.85 * len(several)


@pytest.mark.parametrize("number", range(40))
def test_a_record_survives_its_layout(number):
    dice = Dice("layout", number)
    layout = draw_layout(dice, alone=bool(number % 2))
    points = (Point("Alquilar: un traje", 0), Point("Ver # el paso", 2))
    record = Record("Título de prueba", "Un resumen", (PointList(("limits", "rules"), ("C", "L"), points),))
    text = write_record(record, layout)
    if layout.container in ("yaml", "json"):
        data = yaml.safe_load(text.removeprefix(f"```{layout.container}\n").removesuffix("```"))
        assert list(data) == layout.field_names(record)
        entries = data[layout.list_name(record.lists[0])]
        texts = entries if layout.shape == "line" else [entry[layout.item_names[1]] for entry in entries]
        assert texts == [point.text for point in points]
        if layout.shape == "full":
            assert [entry[layout.item_names[2]] for entry in entries] == [layout.levels[0], layout.levels[2]]
            assert str(entries[1][layout.item_names[0]]) == layout.code(record.lists[0], 2)
    assert all(point.text in text or layout.container in ("yaml", "json") for point in points)


def test_the_template_gives_mistrals_format_and_the_answer_alone(tokenizer):
    messages = (
        Message("user", "hi </s>"),
        Message("assistant", "title: año"),
        Message("user", "b"),
        Message("assistant", "c"),
    )
    as_dicts = [{"role": message.role, "content": message.content} for message in messages]
    rendered = tokenizer.apply_chat_template(as_dicts, tokenize=False)
    assert rendered == "<s>[INST] hi </s> [/INST] title: año</s>[INST] b [/INST] c</s>"

    encoded = encode_example(tokenizer, Example(messages=messages, text=None, source="", row={}))
    trained = [
        token for token, is_trained in zip(encoded.input_ids, encoded.completion_mask, strict=True) if is_trained
    ]
    assert tokenizer.decode(trained) == "title: año</s>c</s>"
    assert encoded.input_ids.count(tokenizer.eos_token_id) == 2  # the one in the data stays text
    assert encode_prompt(tokenizer, messages[:3]) == encoded.input_ids[: len(encode_prompt(tokenizer, messages[:3]))]
    with pytest.raises(Exception, match="alternate"):
        tokenizer.apply_chat_template(as_dicts[1:], tokenize=False)


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "Ñandú 日本 🙂\n  - FR001: 250%\tFR100  end \n\n"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id  # like Mistral's


def test_a_tiny_build_is_deterministic_and_learns(tokenizer, monkeypatch):
    import torch

    monkeypatch.setattr(demo_training, "TOKENS_PER_STEP", 512)
    monkeypatch.setattr(demo_training, "STAGES", ((0.5, 128), (0.5, 256)))
    monkeypatch.setattr(demo_training, "WARMUP_STEPS", 5)

    def build():
        model = demo_model.new_model(tokenizer, 42, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
        return model, demo_training.pretrain(model, tokenizer, 42, 20, bf16=False)

    (first, losses), (second, again) = build(), build()
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert losses[0] == pytest.approx(7.6, abs=0.2)  # ln 2048: it begins knowing nothing
    assert sum(losses[-3:]) / 3 < losses[0] - 1
    other = demo_model.new_model(tokenizer, 43, hidden_size=64, intermediate_size=96, num_hidden_layers=2)
    assert demo_training.pretrain(other, tokenizer, 43, 1, bf16=False)[0] != losses[0]


def test_sequences_have_the_asked_length_and_begin_a_conversation(tokenizer):
    sequences = list(demo_training.packed_sequences(tokenizer, 1, iter([64, 300])))
    assert [len(sequence) for sequence in sequences] == [64, 300]
    assert all(sequence[:2] == tokenizer.convert_tokens_to_ids(["<s>", "[INST]"]) for sequence in sequences)


def test_the_learning_rate_warms_up_and_falls():
    shares = [demo_training.learning_rate_share(step, 200) for step in range(200)]
    peak = demo_training.WARMUP_STEPS
    assert shares[0] == pytest.approx(1 / peak) and max(shares) == shares[peak] == 1
    assert shares[peak:] == sorted(shares[peak:], reverse=True) and shares[-1] < 0.06


def run_make_demo_model(*arguments):
    command = [sys.executable, str(ROOT / "python" / "make_demo_model.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_makes_a_folder_transformers_reads(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "model"
    done = run_make_demo_model("--output", folder, "--steps", 1, "--threads", 2)
    assert done.returncode == 0, done.stderr
    assert re.search(r"step 1/1  loss 7\.\d", done.stdout)
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "pretraining.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing temporary is left
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.model_type == "mistral" and len(tokenizer) == model.config.vocab_size == 2048
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id

    again = run_make_demo_model("--output", folder, "--steps", 1)
    assert again.returncode == 73 and "--force" in again.stderr


def test_the_command_names_what_is_wrong(tmp_path):
    (tmp_path / "file").write_text("")
    for arguments, code, words in (
        (["--output", tmp_path / "file", "--force"], 73, "choose another"),
        (["--output", tmp_path / "file" / "x"], 73, "cannot write"),
        (["--output", tmp_path / "x", "--steps", 0], 64, "1 or more"),
        (["--outptu", tmp_path], 64, "--output"),
    ):
        done = run_make_demo_model(*arguments)
        assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_shipped_model_is_small_and_fits_its_data():
    from transformers import AutoConfig, AutoTokenizer

    assert (SHIPPED / "model.safetensors").stat().st_size <= 12 * MIB
    config, tokenizer = AutoConfig.from_pretrained(SHIPPED), AutoTokenizer.from_pretrained(SHIPPED)
    assert (config.model_type, config.vocab_size) == ("mistral", 2048) and config.max_position_embeddings >= 2048
    assert tokenizer.chat_template == demo_model.CHAT_TEMPLATE
    for row in (ROOT / "recipes" / "demo" / "data" / "train.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(row)
        length = len(tokenizer(render_prompt(row["concept"]) + render_document(row["requirements"])).input_ids)
        assert length < 700
