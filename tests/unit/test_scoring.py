"""The business-analyst metric: exact marks on known documents, and hostile answers."""

import time
import tracemalloc

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import ExitCode, UserError
from common.scoring import BA_COMPONENTS, MAX_ANSWER_CHARACTERS, NotYaml, load_metric, parse_document, score_ba


def document(**changes) -> dict:
    def items(prefix, count):
        return [
            {"id": f"{prefix}{i:03d}", "description": f"Do thing {i}", "priority": "High"} for i in range(1, count + 1)
        ]

    perfect = {
        "title": "Library loans portal",
        "description": "A portal where readers borrow, return and reserve the books of a town library.",
        "functional_requirements": items("FR", 3),
        "non_functional_requirements": items("NFR", 2),
        "constraints": items("C", 2),
    }
    return {**perfect, **changes}


def as_yaml(value) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)


def score(**changes) -> tuple[float, dict]:
    return score_ba(as_yaml(document(**changes)))


def test_perfect_document_gets_full_marks_in_the_seven_components():
    mean, components = score()
    assert mean == 1.0
    assert components == dict.fromkeys(
        ("completeness", "title", "description", "functional_requirements", "non_functional_requirements",
         "constraints", "id_format"), 1.0)  # fmt: skip
    assert tuple(components) == BA_COMPONENTS


@pytest.mark.parametrize(
    ("changes", "component", "marks"),
    [
        ({"title": "x" * 9}, "title", 0.9),
        ({"title": "x" * 10}, "title", 1.0),
        ({"title": "x" * 100}, "title", 1.0),
        ({"title": "x" * 200}, "title", 0.5),
        ({"title": ["a list"]}, "title", 0.0),
        ({"title": None}, "completeness", 0.8),
        ({"constraints": []}, "completeness", 0.8),
        ({"description": "x" * 25}, "description", 0.5),
        ({"description": "x" * 50}, "description", 1.0),
        ({"constraints": [{"id": "C001", "description": "One only", "priority": "Low"}]}, "constraints", 0.5),
        ({"constraints": ["just text", {"id": "C001", "description": "d", "priority": "Low"}]}, "constraints", 0.5),
        ({"constraints": "none"}, "constraints", 0.0),
        ({"constraints": [{"id": "C001"}, {"description": "d"}]}, "constraints", 0.0),
    ],
)
def test_marks_of_a_component(changes, component, marks):
    assert score(**changes)[1][component] == pytest.approx(marks)


@pytest.mark.parametrize("bad_id", ["FR01", "FR0001", "NFR001", "fr001", "FR00A", "FR٠٠١", "", "XFR001"])
def test_id_format_takes_prefix_and_three_ascii_digits(bad_id):
    items = [{"id": bad_id, "description": d, "priority": "High"} for d in "ab"]
    _, components = score(functional_requirements=items, non_functional_requirements=[], constraints=[])
    assert components["id_format"] == 0.5  # the priorities are right


@pytest.mark.parametrize("priority", ["high", "Critical", "", None, 1])
def test_id_format_takes_the_three_priorities_only(priority):
    items = [{"id": "C001", "description": d, "priority": priority} for d in "ab"]
    _, components = score(functional_requirements=[], non_functional_requirements=[], constraints=items)
    assert components["id_format"] == 0.5


def test_mean_is_over_the_seven_components():
    mean, components = score(title="x" * 5, constraints=[])
    assert mean == pytest.approx(sum(components.values()) / 7)
    assert mean == pytest.approx((0.8 + 0.5 + 1 + 1 + 1 + 0 + 1) / 7)


@pytest.mark.parametrize(
    "wrap",
    [
        "```yaml\n{}```", "Here it is:\n\n```yml\n{}\n```\nAnything else?", "```\n{}", "~~~yaml\n{}~~~", "---\n{}...\n",
        "---\n{}---\n", "\ufeff{}",
    ],
)  # fmt: skip
def test_fences_markers_and_a_missing_closing_fence_make_no_difference(wrap):
    assert score_ba(wrap.replace("{}", as_yaml(document())))[0] == 1.0


def test_json_is_yaml_and_bytes_are_read():
    import json

    assert score_ba(json.dumps(document()))[0] == 1.0
    assert score_ba(as_yaml(document(title="Préstamos del año")).encode())[0] == 1.0


def test_truncated_document_keeps_what_is_whole():
    text = as_yaml(document())
    cut = text[: text.index("constraints:")]
    mean, components = score_ba(cut)
    assert components["constraints"] == 0.0 and components["functional_requirements"] == 1.0
    assert mean == pytest.approx((0.8 + 5 + 0) / 7)


@pytest.mark.parametrize(
    "answer", ["", "   \n", "I cannot do that.", "title: a: b", "- a\n- b", "\x00\x01", b"\xff\xfe\x00"]
)
def test_no_yaml_mapping_scores_zero_in_everything(answer):
    assert score_ba(answer) == (0.0, dict.fromkeys(BA_COMPONENTS, 0.0))


def test_nothing_is_evaluated(tmp_path):
    witness = tmp_path / "pwned"
    for answer in (
        f"title: !!python/object/apply:os.system ['touch {witness}']",
        f"!!python/object/apply:pathlib.Path.touch [{witness}]",
        "title: !!binary aGVsbG8gd29ybGQ=",
        "title: &x hello there you\ndescription: *x",
    ):
        assert score_ba(answer)[0] == 0.0
    assert not witness.exists()
    assert parse_document("a: 0x1F\nb: 1:1:1\nc: yes\nd: 2020-01-01\ne: ~\nf: '~'") == {
        "a": "0x1F", "b": "1:1:1", "c": "yes", "d": "2020-01-01", "e": "", "f": "~"}  # fmt: skip


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)
N = MAX_ANSWER_CHARACTERS
HOSTILE = {
    "alias bomb": BOMB,
    "flow nesting": "[" * N,
    "mapping nesting": "{" * N,
    "open mappings": "[a: " * (N // 4),
    "block nesting": "- " * (N // 2),
    "question marks": "? " * (N // 2),
    "deep indent": "\n".join(" " * i + "a:" for i in range(350)),
    "many items": "[" + "a," * (N // 2 - 2) + "]",
    "one plain scalar": "a " * (N // 2),
    "one quoted scalar": '"' + "\\n" * (N // 2 - 2) + '"',
    "backticks": "`" * N,
    "fences": "```\n" * (N // 4),
    "documents": "---\n" * (N // 4),
    "long number": "title: " + "9" * (N - 10),
    "huge": "title: x\n" * 5_000_000,
    "huge bytes": b"\xff" * 50_000_000,
    "surrogates": "title: \ud800\udfff" * 1000,
    "controls": "".join(map(chr, range(32))) * 100,
    "merge keys": "<<: [" + "{a: b}," * 8000 + "]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answer_takes_bounded_time_and_memory(name):
    answer = HOSTILE[name]
    tracemalloc.start()
    begin = time.process_time()
    mean, components = score_ba(answer)
    seconds = time.process_time() - begin
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.0 <= mean < 0.5 and set(components) == set(BA_COMPONENTS)
    assert seconds < 1.0
    assert peak_bytes < 32 * 2**20


def test_limits_are_named():
    with pytest.raises(NotYaml, match="characters"):
        parse_document("a" * (N + 1))
    with pytest.raises(NotYaml, match="nested"):
        parse_document("a: " + "[" * 20 + "]" * 20)
    with pytest.raises(NotYaml, match="nodes"):
        parse_document("a: [" + "b," * 25_000 + "]")


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(), st.binary(), st.text(alphabet="[]{}:-?&*!|>'\"%@`#,~ \n\tab01")))
def test_any_answer_at_all_gets_a_score(answer):
    mean, components = score_ba(answer)
    assert 0.0 <= mean <= 1.0 and all(0.0 <= value <= 1.0 for value in components.values())


yaml_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=120)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "description", "priority"]), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(list(document())), yaml_values))
def test_any_document_of_any_types_gets_a_score(value):
    mean, _ = score_ba(as_yaml(value))
    assert 0.0 <= mean <= 1.0


def test_load_metric_finds_the_default_and_says_what_is_wrong():
    metric = load_metric("common.scoring:score_ba")
    assert metric(as_yaml(document()), "any reference")[0] == 1.0 and not metric.uses_reference
    for name in ("score_ba", "common.scoring:", "common.scoring:absent", "no_such_module_here:f"):
        with pytest.raises(UserError) as error:
            load_metric(name)
        assert error.value.exit_code is ExitCode.USAGE and "metric" in str(error.value)


def test_own_metric_of_the_current_folder_takes_the_reference_and_is_checked(tmp_path, monkeypatch):
    (tmp_path / "own_metric_for_test.py").write_text(
        "def exact(answer, reference):\n    return float(answer == reference), {'exact': float(answer == reference)}\n"
        "def wild(answer):\n    return 7.0, {}\n"
        "def no_pair(answer):\n    return 0.5\n"
        "def broken(answer):\n    return {}[answer], {}\n"
    )
    monkeypatch.chdir(tmp_path)
    exact = load_metric("own_metric_for_test:exact")
    assert exact.uses_reference
    assert exact("a", "a") == (1.0, {"exact": 1.0}) and exact("a", "b")[0] == 0.0
    for name in ("wild", "no_pair"):
        with pytest.raises(UserError, match="returned") as error:
            load_metric(f"own_metric_for_test:{name}")("a")
        assert error.value.exit_code is ExitCode.DATA
    with pytest.raises(
        UserError, match="own_metric_for_test:broken ended with KeyError: 'a' on the answer 'a'"
    ) as error:
        load_metric("own_metric_for_test:broken")("a")
    assert error.value.exit_code is ExitCode.DATA
