"""Settings: layers, types, limits, and every problem at once. Run: pytest tests/unit/test_settings.py"""

import re

import pytest
import yaml

from common import recipes, runs
from common.errors import ExitCode, UserError
from common.options import recipe_from_options, recipe_parser
from common.recipes import load_recipe, recipe_names, restore_recipe

OPTIONS = {"--lr": "training.learning_rate", "--quantization": "model.precision", "--train": "data.train"}


def write_recipe(folder, text):
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def resolve(*words):
    return recipe_from_options(recipe_parser("test", OPTIONS, "demo").parse_args(words), OPTIONS)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_survives_the_manifest(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert restore_recipe(recipe.to_dict()) == recipe


def test_a_manifest_is_read_alike_from_every_folder(tmp_path, monkeypatch):
    resolved = load_recipe("demo").to_dict()
    monkeypatch.chdir(tmp_path)
    assert restore_recipe(resolved).to_dict() == resolved
    assert resolved["data"]["train"] == "recipes/demo/data/train.jsonl"


def test_a_recipe_finds_its_data_in_the_folder_of_all_runs(tmp_path, monkeypatch):
    monkeypatch.delenv("RECETARIO_RUNS", raising=False)
    assert load_recipe("ba-cpu").data.train == "runs/data/ba-cpu/train.jsonl"
    monkeypatch.setenv("RECETARIO_RUNS", str(tmp_path))
    assert load_recipe("ba-cpu").data.train == str(tmp_path / "data" / "ba-cpu" / "train.jsonl")
    monkeypatch.chdir(runs.ROOT)
    assert resolve("--recipe", "ba-cpu", "--train", "runs/mine.jsonl").data.train == "runs/mine.jsonl"


def test_a_model_has_one_revision_in_all_recipes_and_their_headers():
    revisions = {}
    for name in recipe_names():
        model = load_recipe(name).model
        revisions.setdefault(model.name, set()).add(model.revision)
        header = (recipes.RECIPES_DIR / f"{name}.yaml").read_text(encoding="utf-8").split("\ncommand:")[0]
        assert re.findall(r"REVISION=(\w+)", header) == ([model.revision] if model.revision else [])
    assert all(len(found) == 1 for found in revisions.values()), revisions


@pytest.mark.parametrize(
    ("words", "keeps"),
    [
        (["model.name=org/other"], False),
        (["model.name=recipes/demo/model"], False),
        (["model.name=org/other", "model.revision=abc"], "abc"),
        (["model.name=mistralai/Mistral-7B-Instruct-v0.1"], True),
        (["training.epochs=2"], True),
    ],
)
def test_a_revision_is_not_taken_for_another_models(words, keeps):
    """It went to run.json, the report and the card, and the download was asked for a commit that is not there."""
    own = load_recipe("ba-cpu").model.revision
    options = [word for setting in words for word in ("--set", setting)]
    revision = resolve("--recipe", "ba-cpu", *options).model.revision
    assert own and revision == {True: own, False: None}.get(keeps, keeps)


def test_the_cpu_recipe_has_the_numbers_it_is_known_by():
    recipe = load_recipe("ba-cpu")
    assert (recipe.method.rank, recipe.method.alpha, recipe.method.dropout) == (8, 32, 0.1)
    assert recipe.method.targets == ["q_proj", "k_proj", "v_proj", "o_proj"]
    numbers = recipe.training
    assert (numbers.micro_batch, numbers.gradient_accumulation, numbers.epochs) == (1, 8, 3)
    assert (numbers.learning_rate, numbers.scheduler, numbers.warmup_steps) == (2e-4, "cosine", 10)
    assert (numbers.weight_decay, numbers.max_grad_norm, numbers.seed) == (0.01, 1.0, 42)
    assert recipe.data.max_length_tokens == 2048
    assert recipe.model.name == "mistralai/Mistral-7B-Instruct-v0.1"


def test_later_layers_win(tmp_path):
    path = write_recipe(tmp_path, "command: finetune_ba\ntraining: {epochs: 7, learning_rate: 1e-3, max_steps: 9}\n")
    assert load_recipe(path).training.epochs == 7
    smoke = load_recipe(path, smoke=True)
    assert smoke.training.max_steps == yaml.safe_load(recipes.SMOKE_OVERLAY.read_text())["training"]["max_steps"]
    assert smoke.training.epochs == 7
    assert resolve("--recipe", path, "--smoke", "--set", "training.max_steps=3").training.max_steps == 3
    assert resolve("--recipe", path, "--lr", "5e-4").training.learning_rate == 5e-4


def test_smoke_run_has_its_own_name():
    assert load_recipe("ba-cpu", smoke=True).name == "ba-cpu-smoke"


def test_a_number_written_as_text_is_a_number(tmp_path):
    path = write_recipe(tmp_path, "command: finetune_ba\ntraining: {learning_rate: 2e-4}\n")
    assert isinstance(yaml.safe_load("2e-4"), str)  # the trap this is about
    assert load_recipe(path).training.learning_rate == 2e-4


def test_the_original_name_of_nf4_is_understood():
    assert resolve("--quantization", "bnb4").model.precision == "nf4"


def test_on_and_off_survive_yaml(tmp_path):
    path = write_recipe(tmp_path, "command: finetune_ba\ntraining: {activation_checkpointing: off}\n")
    assert load_recipe(path).training.activation_checkpointing == "off"


def test_paths_of_the_command_line_are_taken_from_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve("--train", "mine.jsonl").data.train == str(tmp_path / "mine.jsonl")
    assert resolve().data.train == "recipes/demo/data/train.jsonl"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("training: {learning_rte: 1}", "did you mean learning_rate?"),
        ("trainning: {epochs: 1}", "did you mean training?"),
        ("training: {epochs: many}", "training.epochs is 'many' — a number is needed"),
        ("training: {learning_rate: -1}", "training.learning_rate is -1"),
        ("training: {learning_rate: 0}", "above 0"),
        ("training: {learning_rate: 1e6}", "at most 1"),
        ("training: {learning_rate: .nan}", "a number is needed"),
        ("training: {gradient_accumulation: 0}", "at least 1"),
        ("training: {micro_batch: 1.5}", "a whole number is needed"),
        ("training: {micro_batch: true}", "a number is needed"),
        ("training: {epochs: 0}", "above 0"),
        ("training: {seed: 4294967296}", "at most 4,294,967,295"),
        ("training: {seed: null}", "it must have a value"),
        ("data: {max_length_tokens: 0}", "at least 8"),
        ("method: {rank: 0}", "at least 1"),
        ("method: {targets: []}", "a list of names is needed"),
        ("method: {kind: lara}", "did you mean lora?"),
        ("model: {precision: fp61}", "allowed: auto, bf16, fp16, fp32, nf4"),
        ("training: 3", "'training' must hold keys"),
        ("training: {epochs: 1, epochs: 2}", "key 'epochs' is written twice"),
        ("data: {train: {{ path }}}", "mine.yaml:2: a key must be a word"),
        (
            "epochs: 5",
            "unknown group 'epochs' — groups: model, data, method, training, evaluation, output — "
            "did you mean training.epochs?",
        ),
        ("training: {epochs: [}", "mine.yaml:2"),
        ("model: {name: !!python/object/apply:os.system [x]}", "could not determine a constructor"),
    ],
)
def test_a_bad_recipe_gets_a_line_that_says_what_and_how(tmp_path, body, expected):
    with pytest.raises(UserError) as caught:
        load_recipe(write_recipe(tmp_path, f"command: finetune_ba\n{body}\n"))
    assert caught.value.exit_code == ExitCode.CONFIG
    assert expected in str(caught.value)


def test_a_method_has_its_own_settings_and_no_others(tmp_path):
    with pytest.raises(UserError) as caught:
        load_recipe(write_recipe(tmp_path, "command: finetune_ba\nmethod: {kind: adapter, rank: 8, size: 4}\n"))
    assert "method.rank is nothing that kind adapter has — adapter has: size, placement, activation" in str(
        caught.value
    )
    assert load_recipe("medical-adapter").to_dict()["method"] == {
        "kind": "adapter", "size": 64, "placement": "houlsby", "activation": "gelu"
    }  # fmt: skip


def test_the_medical_recipes_have_the_numbers_they_are_known_by():
    qlora, adapter, ptuning = (load_recipe(f"medical-{name}") for name in ("qlora", "adapter", "ptuning"))
    assert (qlora.method.rank, qlora.method.alpha, qlora.model.precision) == (16, 32, "nf4")
    assert (adapter.method.size, ptuning.method.virtual_tokens) == (64, 20)
    assert [recipe.training.learning_rate for recipe in (qlora, adapter, ptuning)] == [2e-4, 1e-4, 5e-5]
    for recipe in (qlora, adapter, ptuning):
        assert (recipe.training.epochs, recipe.training.micro_batch, recipe.data.max_length_tokens) == (3, 8, 512)
        assert recipe.model.name == "mistralai/Mistral-7B-Instruct-v0.2"
        smoke = load_recipe(recipe.name, smoke=True)  # the common overlay, and the recipe's own on top
        assert smoke.model.name == "recipes/demo/model" and smoke.training.max_steps > 4


def test_the_recipes_for_one_small_machine_have_the_numbers_they_are_known_by():
    utn, yoda = load_recipe("utn-qlora"), load_recipe("yoda-mps")
    assert (utn.model.name, utn.model.precision) == ("meta-llama/Llama-3.2-3B-Instruct", "nf4")
    assert (utn.method.rank, utn.method.alpha, utn.method.dropout, len(utn.method.targets)) == (32, 64, 0.05, 7)
    numbers = utn.training
    assert (numbers.micro_batch, numbers.gradient_accumulation, utn.data.max_length_tokens) == (1, 2, 512)
    assert (numbers.learning_rate, numbers.scheduler, numbers.max_steps, numbers.warmup_steps) == (
        1e-4, "cosine", 2000, 100
    )  # fmt: skip
    assert (numbers.weight_decay, numbers.max_grad_norm, numbers.optimizer) == (0.01, 0.5, "paged_adamw_8bit")
    assert (numbers.eval_every_steps, numbers.log_every_steps, numbers.group_by_length) == (200, 50, True)
    assert yoda.model.name == "microsoft/Phi-3-mini-4k-instruct"
    assert (yoda.method.rank, yoda.method.alpha, yoda.method.dropout) == (8, 16, 0.05)
    assert yoda.method.targets == ["o_proj", "qkv_proj", "gate_up_proj", "down_proj"]
    numbers = yoda.training
    assert (numbers.epochs, numbers.micro_batch, numbers.optimizer) == (10, 4, "adamw_torch")
    assert (numbers.activation_checkpointing, numbers.probe_memory, numbers.device) == ("on", True, "auto")


def test_a_folder_of_splits_is_its_training_and_validation_files(tmp_path):
    options = {"--data_path": "data.train", "--train": "data.train", "--val": "data.validation"}

    def data(*words):
        return recipe_from_options(recipe_parser("test", options, "demo").parse_args(words), options).data

    with pytest.raises(UserError, match="--data_path .*no train.jsonl in this folder") as caught:
        data("--data_path", str(tmp_path))
    assert caught.value.exit_code == ExitCode.NO_INPUT
    for name in ("train.json", "val.json", "other.jsonl"):
        (tmp_path / name).touch()
    found = data("--train", str(tmp_path))
    assert (found.train, found.validation) == (str(tmp_path / "train.json"), str(tmp_path / "val.json"))
    assert data("--data_path", str(tmp_path), "--val", str(tmp_path / "other.jsonl")).validation.endswith("other.jsonl")


def test_a_command_refuses_a_recipe_of_another_kind():
    parser = recipe_parser("test", OPTIONS, "medical-adapter", kind="adapter")
    with pytest.raises(
        UserError, match="has method.kind lora — this command trains adapter — use python/train_qlora.py"
    ):
        recipe_from_options(parser.parse_args(["--recipe", "medical-qlora"]), OPTIONS)


def test_all_problems_are_reported_at_once(tmp_path):
    path = write_recipe(tmp_path, "command: nothing\ntraining: {epochs: 0, seed: x}\nmodel: {size: 3}\n")
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert len(caught.value.problems) == 4


def test_an_unknown_recipe_names_the_known_ones():
    with pytest.raises(UserError, match="recipes: ba-cpu, demo.*did you mean demo") as caught:
        load_recipe("dem")
    assert caught.value.exit_code == ExitCode.NO_INPUT


def test_a_wrong_option_value_is_named_by_its_flag():
    with pytest.raises(UserError, match="^--lr is 'fast'"):
        resolve("--lr", "fast")


def test_a_setting_that_is_no_yaml_is_a_usage_error_of_one_line():
    for text in ("data.columns=[", "training.seed=!!python/object:os.system", "data.columns={a: 1, a: 2}"):
        with pytest.raises(UserError) as error:
            resolve("--set", text)
        assert error.value.exit_code == ExitCode.USAGE
        assert f"--set {text}: " in str(error.value) and "\n" not in str(error.value)
    assert resolve("--set", "data.validation=").data.validation is None
    several = resolve("--set", " method.targets=[q_proj, v_proj] training.max_steps=3")  # make SET="… …"
    assert (several.method.targets, several.training.max_steps) == (["q_proj", "v_proj"], 3)


def test_an_unknown_option_is_a_usage_error():
    with pytest.raises(UserError, match="unknown option '--lrr' — did you mean --lr") as caught:
        resolve("--lrr", "1")
    assert caught.value.exit_code == ExitCode.USAGE
