"""Ollama's Modelfile, with a TEMPLATE that writes what our encoding writes.

Ollama's templates are Go's text/template (https://pkg.go.dev/text/template) over .Messages, each with .Role and
.Content. BOS is not in the template: the server writes it where the tokenizer's ``add_bos_token`` says so. Consecutive
messages of one role reach the template as one. A conversation that does not fit is tried from later and later messages
on, so the template must not fail on one that begins with an answer.
"""

import json
from collections.abc import Sequence

from common.exporting.turns import END, START, Turns

CONTEXT_TOKENS = 4096  # what Ollama reserves; a model made for less gets less


def modelfile(
    source: Sequence[str], turns: Turns, stops: Sequence[str], *, context: int, comments: Sequence[str] = ()
) -> str:
    """Return a Modelfile. ``source`` holds its FROM and ADAPTER lines, ``stops`` the texts of the stop tokens."""
    lines = [f"# {comment}" for comment in comments]
    lines += [*source, f'TEMPLATE """{go_template(turns)}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    lines += ["PARAMETER temperature 0", f"PARAMETER num_ctx {min(context, CONTEXT_TOKENS)}"]
    return "\n".join(lines) + "\n"


def go_template(turns: Turns) -> str:
    """Return the template in Go's language. Every white space that counts is in a quoted text; the rest is trimmed."""
    roles = ("system", "user", "assistant") if turns.knows_system else ("user", "assistant")
    lines = ['{{- $before := "start" -}}', "{{- range .Messages -}}"]
    for n, role in enumerate(roles):
        word = "if" if n == 0 else "else if"
        lines.append(f'{{{{- {word} eq .Role "{role}" -}}}}{_before(turns, role)}{{{{- .Content -}}}}')
    refused = "this model knows no such message: it takes user, assistant" + (", system" if turns.knows_system else "")
    lines += [f"{{{{- else -}}}}{_fail(refused)}{{{{- end -}}}}", "{{- $before = .Role -}}", "{{- end -}}"]
    lines.append(f'{{{{- if ne $before "assistant" -}}}}{_text(turns.between["user", END])}{{{{- end -}}}}')
    return "\n".join(lines)


def _before(turns: Turns, role: str) -> str:
    """What is written before a turn of ``role``, by the role before it."""
    cases = {before: text for (before, after), text in turns.between.items() if after == role}
    if role == "system":  # elsewhere the chat template was not seen to write one
        return f'{{{{- if eq $before "{START}" -}}}}{_text(cases[START])}{{{{- else -}}}}{_fail(_LATE)}{{{{- end -}}}}'
    texts = list(cases.values())
    # An answer comes first where the beginning of the conversation did not fit: it stands alone then.
    usual = "" if role == "assistant" else max(texts, key=texts.count)
    unusual = {before: text for before, text in cases.items() if text != usual}
    if not unusual:
        return _text(usual)
    branches = [f'if eq $before "{before}" -}}}}{_text(text)}' for before, text in unusual.items()]
    otherwise = f"{{{{- else -}}}}{_text(usual)}" if usual else ""
    return "{{- " + "{{- else ".join(branches) + f"{otherwise}{{{{- end -}}}}"


_LATE = "this model takes a system message at the start only"


def _text(text: str) -> str:
    return f"{{{{- {json.dumps(text, ensure_ascii=False)} -}}}}" if text else ""


def _fail(message: str) -> str:
    """Go's language has no word for an error; cutting a text behind its end makes one that shows the text."""
    return f"{{{{- slice {json.dumps(message)} 999 -}}}}"
