"""The part of Go's text/template that our Modelfiles use, in Python; and the real one, where there is a Go."""

import json
import re
import subprocess
from pathlib import Path

_ACTION = re.compile(r'\{\{- ((?:"(?:\\.|[^"\\])*"|[^}"])*) -\}\}')
_GO = """package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type Message struct{ Role, Content string }

func main() {
	var jobs []struct {
		Template string
		Messages []Message
	}
	if err := json.NewDecoder(os.Stdin).Decode(&jobs); err != nil {
		panic(err)
	}
	answers := []map[string]string{}
	for _, job := range jobs {
		answer := map[string]string{}
		text := new(writer)
		t, err := template.New("").Option("missingkey=zero").Parse(job.Template)
		if err == nil {
			err = t.Execute(text, map[string]any{"Messages": job.Messages, "System": "", "Response": ""})
		}
		answer["text"] = string(*text)
		if err != nil {
			answer["error"] = err.Error()
		}
		answers = append(answers, answer)
	}
	json.NewEncoder(os.Stdout).Encode(answers)
}

type writer []byte

func (w *writer) Write(p []byte) (int, error) { *w = append(*w, p...); return len(p), nil }
"""


def render_with_go(go: str, folder: Path, jobs: list[tuple[str, list[dict]]]) -> list[dict]:
    """Execute templates with Go's own package; each answer has ``text`` and, where it failed, ``error``."""
    source = folder / "render.go"
    source.write_text(_GO, encoding="utf-8")
    asked = [
        {"Template": text, "Messages": [{"Role": m["role"], "Content": m["content"]} for m in messages]}
        for text, messages in jobs
    ]
    environment = {
        "GOCACHE": str(folder / "cache"),
        "HOME": str(folder),
        "PATH": "/usr/bin:/bin",
        "GOFLAGS": "-mod=mod",
    }
    done = subprocess.run(
        [go, "run", str(source)], input=json.dumps(asked), capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def render(template: str, messages: list[dict]) -> str:
    """Render with the little that is known here: quoted texts, range .Messages, if eq/ne, $before, .Content, slice."""
    text, end = _run(_parse(template), 0, {"messages": messages, "before": None, "message": None})
    assert end == len(_parse(template))
    return text


def _parse(template: str) -> list[str]:
    assert not re.sub(r"\s", "", _ACTION.sub("", template)), "text outside the actions"
    return [match.group(1) for match in _ACTION.finditer(template)]


def _run(actions: list[str], at: int, state: dict, live: bool = True) -> tuple[str, int]:
    """Run actions from ``at`` to the end, or to an else or end; return (text, where it stopped)."""
    text = ""
    while at < len(actions):
        action = actions[at]
        if action == "end" or action.startswith("else"):
            return text, at
        at += 1
        if action.startswith('"'):
            text += json.loads(action) if live else ""
        elif action == ".Content":
            text += state["message"]["content"] if live else ""
        elif action.startswith("slice "):
            if live:
                raise ValueError(action)
        elif match := re.fullmatch(r'\$before :?= ("start"|\.Role)', action):
            if live:
                state["before"] = "start" if match[1] == '"start"' else state["message"]["role"]
        elif action == "range .Messages":
            end = at
            for message in state["messages"]:
                state["message"] = message
                piece, end = _run(actions, at, state)
                text += piece
            at = end + 1
        elif action.startswith("if "):
            taken = False
            while True:
                word = action.removeprefix("else ")
                true = not taken and (word == "else" or _holds(word, state))
                piece, at = _run(actions, at, state, live and true)
                text += piece
                taken = taken or true
                action = actions[at]
                at += 1
                if action == "end":
                    break
        else:
            raise AssertionError(f"not known here: {action}")
    return text, at


def _holds(condition: str, state: dict) -> bool:
    how, what, value = re.fullmatch(r'if (eq|ne) (\.Role|\$before) "(\w+)"', condition).groups()
    same = (state["message"]["role"] if what == ".Role" else state["before"]) == value
    return same if how == "eq" else not same
