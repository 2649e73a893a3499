"""Answers of local models: the same in any batch and order, what plain `generate` gives, counted and kept."""

import json

import pytest
import torch
from answering_models import EOS_ID, PAD_ID, make_adapter, make_model

from common.data.examples import Message
from common.errors import ExitCode, UserError
from common.generation import Answer, Decoding, Request, generate
from common.generation.answers import AnswerCache, without_thought
from common.generation.arms import find_local, open_arm
from common.generation.decoding import BatchDecoder, Row
from common.generation.local import LocalArm, LocalModel, as_trained

INSTRUCTIONS = "Write a requirements document for the concept below, with a title and two lists of items. " * 2
CONCEPTS = ["A library", "A shop for used bicycles with repairs", "Bus tickets", "Una biblioteca municipal",
            "A clinic", "A very long concept " * 9, "Tea", "School meals and menus for two weeks"]  # fmt: skip


def conversation(concept: str) -> list[Message]:
    return [Message("user", INSTRUCTIONS + concept)]


CONVERSATIONS = [conversation(concept) for concept in CONCEPTS]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Threads that wait for each other cost more than so small a model computes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"), [INSTRUCTIONS, *CONCEPTS])


@pytest.fixture(scope="module")
def adapter(folder, tmp_path_factory):
    return make_adapter(folder, tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="module")
def local(folder):
    return LocalModel(folder)


def texts(answers) -> list[str]:
    return [answer.text for row in answers for answer in row]


def test_greedy_answers_are_those_of_plain_generate_one_by_one(local):
    from common.chat import encode_prompt

    arm = LocalArm("base", local)
    answers = generate(arm, CONVERSATIONS, Decoding(max_new_tokens=40))
    reasons = set()
    for messages, (answer,) in zip(CONVERSATIONS, answers, strict=True):
        prompt = torch.tensor([encode_prompt(local.tokenizer, messages)])
        options = {"max_new_tokens": 40, "do_sample": False, "eos_token_id": EOS_ID, "pad_token_id": PAD_ID}
        whole = local.model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)[0].tolist()
        whole = whole[prompt.shape[1] :]
        stopped = whole[-1] == EOS_ID
        assert answer.text == local.tokenizer.decode(whole, skip_special_tokens=True)
        assert answer.finish_reason == ("stop" if stopped else "length")
        assert (answer.prompt_tokens, answer.completion_tokens) == (prompt.shape[1], len(whole) - stopped)
        reasons.add(answer.finish_reason)
    assert reasons == {"stop", "length"}, "the fixture must show both ends"


@pytest.mark.parametrize("decoding", [Decoding(40), Decoding(40, temperature=0.7, seed=3, samples=2)])
def test_answers_do_not_depend_on_batch_size_order_or_sharing(local, decoding):
    expected = generate(LocalArm("a", local, batch_size=1), CONVERSATIONS, decoding)
    for batch_size in (3, None):
        assert generate(LocalArm("a", local, batch_size=batch_size), CONVERSATIONS, decoding) == expected
    backwards = generate(LocalArm("a", local, batch_size=5), CONVERSATIONS[::-1], decoding)
    assert backwards[::-1] == expected
    alone = [generate(LocalArm("a", local), [messages], decoding)[0] for messages in CONVERSATIONS]
    assert alone == expected


def test_shared_beginning_is_computed_once_and_changes_nothing(local):
    arm = LocalArm("a", local)
    requests = [Request(tuple(messages)) for messages in CONVERSATIONS]
    computed = {}
    for share in (False, True):
        rows = arm.rows(requests, Decoding(20))
        tokens = 0

        def count(module, args, kwargs):
            nonlocal tokens
            tokens += kwargs["input_ids"].numel()

        hook = local.model.register_forward_pre_hook(count, with_kwargs=True)
        decoder = BatchDecoder(local.model, local.stop_ids, PAD_ID, share=share)
        finished = [row for batch in decoder.decode(rows) for row in batch]
        hook.remove()
        computed[share] = (tokens, {row.index: row.tokens for row in finished})
    assert computed[True][1] == computed[False][1]
    shared = decoder._shared_tokens(rows)
    assert shared >= 32
    assert computed[False][0] - computed[True][0] >= shared * (len(rows) - 1)


def test_sharing_is_off_where_a_sliding_window_could_make_it_inexact(local, monkeypatch):
    rows = LocalArm("a", local).rows([Request(tuple(messages)) for messages in CONVERSATIONS], Decoding(20))
    decoder = BatchDecoder(local.model, local.stop_ids, PAD_ID)
    monkeypatch.setattr(local.model.config, "sliding_window", 4096)
    assert decoder._shared_tokens(rows) > 0
    monkeypatch.setattr(local.model.config, "sliding_window", 64)
    assert decoder._shared_tokens(rows) == 0


def test_sampling_repeats_with_its_seed_and_differs_without(local):
    arm = LocalArm("a", local)
    first = generate(arm, CONVERSATIONS, Decoding(30, temperature=0.8, seed=1, samples=3))
    assert generate(arm, CONVERSATIONS, Decoding(30, temperature=0.8, seed=1, samples=3)) == first
    other = generate(arm, CONVERSATIONS, Decoding(30, temperature=0.8, seed=2, samples=3))
    assert texts(other) != texts(first)
    assert len(set(texts([first[0]]))) > 1


def test_sampling_draws_from_the_softmax(local):
    """One token after one prompt, 3,000 times: frequencies against the model's probabilities (chi-square)."""
    from scipy import stats

    prompt = LocalArm("a", local).rows([Request(tuple(CONVERSATIONS[0]))], Decoding(1))[0].prompt
    with torch.inference_mode():
        logits = local.model(torch.tensor([prompt])).logits[0, -1]
    expected = torch.softmax(logits / 2.0, -1).double().numpy() * 3000
    rows = [Row(i, prompt, 1, noise_seed=i) for i in range(3000)]
    decoder = BatchDecoder(local.model, stop_ids=[], pad_id=PAD_ID, batch_size=500)
    drawn = [row.tokens[0] for batch in decoder.decode(rows, temperature=2.0) for row in batch]
    observed = torch.bincount(torch.tensor(drawn), minlength=len(expected)).numpy()
    common = expected >= 5
    assert common.sum() > 5
    observed = [*observed[common], observed[~common].sum()]
    expected = [*expected[common], expected[~common].sum()]
    assert stats.chisquare(observed, expected, sum_check=False).pvalue > 0.001


def test_arms_of_one_base_share_weights_and_the_adapter_makes_the_difference(folder, adapter):
    models = {}
    tuned = open_arm("finetuned", str(adapter), models=models)
    plain = open_arm("baseline", str(folder), models=models)
    assert len(models) == 1 and tuned._local is plain._local
    decoding = Decoding(30)
    tuned_texts = texts(generate(tuned, CONVERSATIONS, decoding))
    plain_texts = texts(generate(plain, CONVERSATIONS, decoding))
    assert plain_texts == texts(generate(LocalArm("a", LocalModel(folder)), CONVERSATIONS, decoding))
    assert tuned_texts != plain_texts
    assert tuned_texts == texts(generate(tuned, CONVERSATIONS, decoding)), "switching back leaves no trace"
    assert tuned.identity != plain.identity and tuned.identity["adapter_sha256"]


def test_two_arms_may_be_read_in_turn(folder, adapter):
    """Their batches interleave on the same weights; the adapter must be on for one and off for the other."""
    models = {}
    arms = [open_arm("finetuned", str(adapter), models=models), open_arm("baseline", str(folder), models=models)]
    expected = [texts(generate(arm, CONVERSATIONS, Decoding(10))) for arm in arms]
    for arm in arms:
        arm._batch_size = 2
    requests = [Request(tuple(messages)) for messages in CONVERSATIONS]
    answered = [{}, {}]
    for batches in zip(*(arm.answer(requests, Decoding(10)) for arm in arms), strict=True):
        for one, batch in zip(answered, batches, strict=True):
            one.update({request: answer.text for request, answer in batch})
    assert [[one[request] for request in requests] for one in answered] == expected


def test_prompt_that_fills_the_context_is_an_error_and_a_near_one_is_cut(local):
    arm = LocalArm("a", local)
    with pytest.raises(UserError, match=r"a:2: a prompt of \d+ tokens — the model reads at most 512") as error:
        arm.check([CONVERSATIONS[0], conversation("x" * 3000)], ["a:1", "a:2"])
    assert error.value.exit_code is ExitCode.DATA
    prompt = arm.rows([Request(tuple(CONVERSATIONS[0]))], Decoding(10_000))[0]
    assert prompt.max_new_tokens == 512 - len(prompt.prompt)


def test_same_conversation_twice_is_answered_once(local, monkeypatch):
    asked = []
    arm = LocalArm("a", local)
    answer = arm.answer
    monkeypatch.setattr(arm, "answer", lambda requests, decoding: asked.extend(requests) or answer(requests, decoding))
    answers = generate(arm, [CONVERSATIONS[0], CONVERSATIONS[1], CONVERSATIONS[0]], Decoding(10))
    assert len(asked) == 2 and answers[0] == answers[2]


def test_cache_is_asked_first_and_survives_a_cut_line(local, tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    arm = LocalArm("a", local, batch_size=3)
    first = generate(arm, CONVERSATIONS, Decoding(10), cache=AnswerCache(path))
    assert len(path.read_text().split("\n")) == 1 + len(CONVERSATIONS)
    path.write_text(path.read_text()[:-15])  # as a crash would leave it
    asked = []
    answer = arm.answer
    monkeypatch.setattr(arm, "answer", lambda requests, decoding: asked.extend(requests) or answer(requests, decoding))
    progress = []
    again = generate(arm, CONVERSATIONS, Decoding(10), cache=AnswerCache(path), progress=lambda *p: progress.append(p))
    assert again == first and len(asked) == 1
    assert progress == [(7, 8), (8, 8)]
    assert generate(arm, CONVERSATIONS, Decoding(10), cache=AnswerCache(path)) == first and len(asked) == 1
    generate(arm, CONVERSATIONS[:1], Decoding(11), cache=AnswerCache(path))
    assert len(asked) == 2, "another decoding is another question"


def test_answers_that_cannot_be_kept_are_an_error_not_a_surprise(tmp_path):
    (tmp_path / "file").write_text("")
    cache = AnswerCache(tmp_path / "file" / "answers.jsonl")
    with pytest.raises(UserError, match="cannot keep answers") as error:
        cache.put({}, Decoding(), [(Request((Message("user", "q"),)), Answer("a", "stop"))])
    assert error.value.exit_code is ExitCode.IO


def test_cache_keeps_any_text(tmp_path):
    cache = AnswerCache(tmp_path / "a.jsonl")
    request = Request((Message("user", "línea\u2028\x00"),))
    answer = Answer("a\nb\u2028\x85\ud800", "stop", 1, 2)
    cache.put({"kind": "x"}, Decoding(), [(request, answer)])
    assert AnswerCache(tmp_path / "a.jsonl").get({"kind": "x"}, request, Decoding()) == answer
    assert AnswerCache(tmp_path / "a.jsonl").get({"kind": "y"}, request, Decoding()) is None


@pytest.mark.parametrize(
    "options",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"samples": 0}, {"samples": 3}],
)
def test_decoding_refuses_what_makes_no_sense(options):
    with pytest.raises(UserError) as error:
        Decoding(**options)
    assert error.value.exit_code is ExitCode.USAGE


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        ("openai:model", ExitCode.USAGE),
        ("openai:@http://localhost:1", ExitCode.USAGE),
        ("openai:m@localhost", ExitCode.USAGE),
        ("/no/such/folder", ExitCode.NO_INPUT),
    ],
)
def test_open_arm_says_what_is_wrong(spec, code):
    with pytest.raises(UserError) as error:
        open_arm("baseline", spec)
    assert error.value.exit_code is code


def test_open_arm_knows_servers():
    assert open_arm("b", "ollama:mistral:7b-instruct").identity == {
        "kind": "server", "url": "http://localhost:11434/v1", "model": "mistral:7b-instruct"}  # fmt: skip
    assert open_arm("b", "openai:a/b@c@http://h:1/v1/").description == {"url": "http://h:1/v1", "model": "a/b@c"}


def test_adapter_folder_without_a_base_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": None}))
    with pytest.raises(UserError, match="names no base model"):
        find_local(str(tmp_path))


def test_a_base_in_the_hubs_cache_is_found_by_the_adapters_revision(tmp_path, monkeypatch, folder):
    cache, commit = tmp_path / "hub" / "models--org--base", "ab" * 20
    (cache / "snapshots").mkdir(parents=True)
    (cache / "snapshots" / commit).symlink_to(folder)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    with pytest.raises(UserError, match="model org/base is not on this machine"):
        find_local(str(adapter))
    (adapter / "training_info.json").write_text(json.dumps({"revision": commit}))
    assert find_local(str(adapter)) == (folder.resolve(), adapter.resolve())


def test_a_thought_before_an_answer_is_no_part_of_it():
    """Qwen3's template teaches an empty one, and its tokenizer's tags are no control tokens."""
    assert without_thought("<think>\n\n</think>\n\nParis") == "Paris"
    assert without_thought("\n<think>Of France?\nYes.</think> Paris </think>") == "Paris </think>"
    for text in ("Paris", "I <think>so</think>", "<think>cut in the mid"):
        assert without_thought(text) == without_thought(text, begun=True) == text
    assert without_thought("Of France.</think>\nParis", begun=True) == "Paris"
    assert without_thought("Of France.</think>\nParis") == "Of France.</think>\nParis"


def test_a_model_computes_as_its_run_did_where_the_device_is_here(folder, monkeypatch):
    settings = {"model": {"compute": "fp32"}, "training": {"device": "cpu"}}
    how = as_trained({"model": {"precision": "nf4"}, "settings": settings})
    assert how == {"precision": "nf4", "device": "cpu", "compute": "fp32"}
    asked = []
    monkeypatch.setattr("common.models.load_model", lambda *words: asked.append(words[1:]) or make_stop())
    with pytest.raises(StopIteration):
        LocalModel(folder, **how).model  # noqa: B018
    assert asked == [("nf4", "cpu", "fp32")]
    settings["model"]["compute"] = "int8"  # the training's alone: judged is what the adapter does on the plain base
    assert as_trained({"model": {"precision": "fp32"}, "settings": settings})["compute"] == "auto"
    settings["model"]["compute"] = "fp32"
    settings["training"]["device"] = "cuda"  # not here, nor is what it multiplied in
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert as_trained({"model": {"precision": "fp32"}, "settings": settings})["compute"] == "auto"
    assert as_trained({})["device"] in ("cpu", "mps")


def make_stop():
    raise StopIteration


def test_kept_answers_are_those_of_one_device_and_one_way_to_compute(folder, adapter):
    ways = [{"precision": "nf4", "device": "cpu", "compute": compute} for compute in ("fp32", "bf16")]
    ways += [{"precision": "fp32", "device": device} for device in ("cpu", "cuda")]
    models = [LocalModel(folder, **way) for way in ways]
    models[-1].device = "cuda"
    identities = [LocalArm("a", model).identity for model in models]
    assert all(a != b for i, a in enumerate(identities) for b in identities[i + 1 :])
