"""Answers beside references, in [0, 1]: exact match, token F1, ROUGE-L and BLEU.

Exact match and token F1 are those of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250), but for the articles, which other
languages have too: words in small letters, without punctuation. ROUGE-L is rouge-score's F measure over the same words;
BLEU is sacrebleu's, of sentences (with effective order) for the single item, of the corpus for all.
"""

import re
from collections import Counter
from collections.abc import Sequence

MEASURES = ("exact_match", "token_f1", "rouge_l", "bleu")
_WORD = re.compile(r"(?:(?<!\w)-(?=\d))?\w+(?:[.,]\d+)*")  # 0.5 and -5 are one word, "end." is not


def words_of(text: str) -> list[str]:
    """Return the words of ``text`` in small letters, numbers with sign and decimals, no punctuation.

    Of a text without any, such as "+" or "✓", what stands between spaces.
    """
    return _WORD.findall(text.casefold().replace("−", "-")) or text.split()


class _Words:
    """The tokenizer that rouge-score asks for; its own drops every letter beyond a to z."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


def score_texts(answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Return measure → score of each answer (shape [items]) against its reference."""
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    rouge, bleu = RougeScorer(["rougeL"], tokenizer=_Words()), BLEU(effective_order=True)
    pairs = list(zip(answers, references, strict=True))
    return {
        "exact_match": [float(words_of(answer) == words_of(reference)) for answer, reference in pairs],
        "token_f1": [token_f1(answer, reference) for answer, reference in pairs],
        "rouge_l": [rouge.score(reference, answer)["rougeL"].fmeasure for answer, reference in pairs],
        "bleu": [min(1.0, bleu.sentence_score(answer, [reference]).score / 100) for answer, reference in pairs],
    }


def score_exact(answer: str, reference: str) -> tuple[float, dict[str, float]]:
    """A metric for short answers with one right wording: 1 for the reference's words in their order, else 0.

    The components tell how near a wrong one comes: token F1 and ROUGE-L.
    """
    measures = {name: values[0] for name, values in score_texts([answer], [reference]).items()}
    return measures["exact_match"], {name: measures[name] for name in ("exact_match", "token_f1", "rouge_l")}


def score_rouge(answer: str, reference: str) -> tuple[float, dict[str, float]]:
    """A metric for free text: ROUGE-L, how long a part of the reference's words comes in their order.

    The components are token F1 and BLEU. Good answers in other words get less than 1, often far less.
    """
    measures = {name: values[0] for name, values in score_texts([answer], [reference]).items()}
    return measures["rouge_l"], {name: measures[name] for name in ("rouge_l", "token_f1", "bleu")}


def corpus_bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """Return sacrebleu's BLEU of all answers together, in [0, 1]."""
    from sacrebleu.metrics import BLEU

    return BLEU().corpus_score(list(answers), [list(references)]).score / 100


def token_f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the answer's words; 1 when both have none."""
    found, wanted = Counter(words_of(answer)), Counter(words_of(reference))
    if not found or not wanted:
        return float(found == wanted)
    common = sum((found & wanted).values())
    return 2 * common / (found.total() + wanted.total())
