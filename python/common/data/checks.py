"""What may be wrong with the text itself: control characters, control tokens, secrets. Found, never changed."""

import re
from dataclasses import dataclass, field

from common.data.examples import Example

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_MARKUP = re.compile(r"<(?:\|[a-zA-Z_]{1,40}\||/?s|</?SYS>|(?:start|end)_of_turn|bos|eos|pad|unk)>|\[/?INST\]")
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+\.[\w.-]*\w")  # from a word's beginning only: quadratic otherwise
# What a secret begins with (looked for first, which is cheap) → the whole of it, and its kind.
_SECRETS = {
    "hf_": (re.compile(r"\bhf_[A-Za-z0-9]{30,}"), "Hugging Face token"),
    "sk-": (re.compile(r"\bsk-(?=[A-Za-z_-]*\d)(?:ant-|proj-)?[A-Za-z0-9_-]{24,}"), "API key"),
    "ghp_": (re.compile(r"\bghp_[A-Za-z0-9]{36}"), "GitHub token"),
    "github_pat_": (re.compile(r"\bgithub_pat_[A-Za-z0-9_]{40,}"), "GitHub token"),
    "AKIA": (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "AWS key"),
    "AIza": (re.compile(r"\bAIza[0-9A-Za-z_-]{35}"), "Google API key"),
    "xox": (re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{20,}"), "Slack token"),
    "PRIVATE KEY-----": (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"), "private key"),
}
_KEPT = 5


@dataclass(slots=True)
class Finding:
    """How many rows, and the first few of them."""

    count: int = 0
    sources: list[str] = field(default_factory=list)

    def add(self, source: str) -> None:
        self.count += 1
        if len(self.sources) < _KEPT:
            self.sources.append(source)

    def merge(self, other: "Finding") -> None:
        self.count += other.count
        self.sources += other.sources[: _KEPT - len(self.sources)]

    def __str__(self) -> str:
        return f"{self.count:,} ({', '.join(self.sources)}{', …' if self.count > len(self.sources) else ''})"


@dataclass(slots=True)
class TextFindings:
    """What was found in the text of many examples. Can be merged with what another process found."""

    control: Finding = field(default_factory=Finding)
    markup: Finding = field(default_factory=Finding)
    mails: Finding = field(default_factory=Finding)
    secrets: dict[str, Finding] = field(default_factory=dict)

    def check(self, example: Example) -> None:
        text = "\n".join(example.texts)
        if _CONTROL.search(text):
            self.control.add(example.source)
        if ("<" in text or "INST]" in text) and _MARKUP.search(text):
            self.markup.add(example.source)
        if "@" in text and _MAIL.search(text):
            self.mails.add(example.source)
        for begins, (pattern, kind) in _SECRETS.items():
            if begins in text and pattern.search(text):
                self.secrets.setdefault(kind, Finding()).add(example.source)

    def merge(self, other: "TextFindings") -> None:
        self.control.merge(other.control)
        self.markup.merge(other.markup)
        self.mails.merge(other.mails)
        for kind, finding in other.secrets.items():
            self.secrets.setdefault(kind, Finding()).merge(finding)

    def notes(self) -> list[str]:
        """One line for each thing worth telling that is not an error."""
        told = (
            (self.control, "rows hold control characters (kept as they are)"),
            (self.markup, "rows hold control tokens written out, such as </s> (they stay text)"),
            (self.mails, "rows hold e-mail addresses"),
        )
        return [f"{what}: {finding}" for finding, what in told if finding.count]
