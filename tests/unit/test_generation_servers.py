"""Arms behind OpenAI-compatible servers: faults are retried, what was answered is kept, nothing is silently zero.

Faults come from a small HTTP server of the standard library that misbehaves on demand; the rest is asked of a real
`transformers serve` on a free port of localhost.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from answering_models import make_model

from common.data.examples import Message
from common.errors import ExitCode, UserError
from common.generation import Answer, Decoding, Request, generate, open_arm
from common.generation.answers import AnswerCache
from common.generation.servers import OllamaArm, ServerArm

CONVERSATIONS = [[Message("user", f"question {i}")] for i in range(6)]


def whole_reply(text, finish_reason="stop") -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}


class FaultyServer:
    """Answers "re: <question>", after the faults that are lined up for its first requests."""

    def __init__(self, faults=(), port: int = 0):
        self.faults = list(faults)
        self.bodies: list[dict] = []
        self.times: list[float] = []
        self.tags: dict | None = None  # of an Ollama
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                found = self.path == "/api/tags" and outer.tags is not None
                self.send(200 if found else 404, json.dumps(outer.tags if found else {}).encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with outer._lock:
                    outer.bodies.append(body)
                    outer.times.append(time.monotonic())
                    fault = outer.faults.pop(0) if outer.faults else None
                reply = json.dumps(whole_reply("re: " + body["messages"][-1]["content"])).encode()
                if fault is None:
                    return self.send(200, reply)
                return fault(self, reply)

            def send(self, status, data, length=None, **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(length or len(data)))
                self.end_headers()
                try:
                    self.wfile.write(data)
                except OSError:  # the client no longer waits
                    return

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def overloaded(handler, reply):
    handler.send(503, b'{"error": {"message": "overloaded"}}')


def half_body(handler, reply):
    handler.send(200, reply[: len(reply) // 2], length=len(reply))
    handler.close_connection = True


def half_json(handler, reply):
    handler.send(200, reply[: len(reply) // 2])


def reset(handler, reply):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def no_choices(handler, reply):
    handler.send(200, json.dumps(whole_reply("x") | {"choices": []}).encode())


def unfinished(handler, reply):
    handler.send(200, json.dumps(whole_reply("half an ans", None)).encode())


def aborted(handler, reply):
    handler.send(200, json.dumps(whole_reply("half an ans", "abort")).encode())


def no_text(handler, reply):
    handler.send(200, json.dumps(whole_reply(None)).encode())


def html_page(handler, reply):
    handler.send(200, b"<html>a proxy's page</html>")


def slow(handler, reply):
    time.sleep(3)
    handler.send(200, reply)


def arm_at(url, **options) -> ServerArm:
    return ServerArm("finetuned", "m", url, **({"timeout_s": 5.0, "first_wait_s": 0.01, "attempts": 3} | options))


FAULTS = [overloaded, half_body, half_json, reset, no_choices, unfinished, aborted, no_text, html_page]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_what_may_pass_is_tried_again(fault):
    with FaultyServer([fault, fault]) as server:
        ((answer,),) = generate(arm_at(server.url), CONVERSATIONS[:1], Decoding(50))
        assert (answer.text, answer.finish_reason) == ("re: question 0", "stop")
        assert (answer.prompt_tokens, answer.completion_tokens) == (3, 4)
        assert len(server.bodies) == 3


def test_slow_server_times_out_and_is_tried_again():
    with FaultyServer([slow]) as server:
        ((answer,),) = generate(arm_at(server.url, timeout_s=1.0), CONVERSATIONS[:1], Decoding(50))
        assert answer.text == "re: question 0" and len(server.bodies) >= 2


def test_each_time_out_gives_the_next_try_more_time():
    with FaultyServer([slow, slow]) as server:  # 3 s: more than the first and the second try wait
        ((answer,),) = generate(arm_at(server.url, timeout_s=1.2), CONVERSATIONS[:1], Decoding(50))
        assert answer.text == "re: question 0" and len(server.bodies) == 3
        assert server.times[2] - server.times[1] >= 2.3  # no time-out comes early


def test_what_is_under_way_when_the_server_refuses_is_still_kept(tmp_path):
    begun = threading.Event()

    def refuse(handler, reply):
        begun.wait(30)
        handler.send(401, b'{"error": {"message": "no access"}}')

    def late(handler, reply):
        begun.set()
        time.sleep(1)
        handler.send(200, reply)

    with FaultyServer([refuse, late]) as server, pytest.raises(UserError, match="no access"):
        cache = AnswerCache(tmp_path / "answers.jsonl")
        generate(arm_at(server.url, at_once=2), CONVERSATIONS, Decoding(50), cache=cache)
    assert (tmp_path / "answers.jsonl").read_text().count('"key"') >= 1


def test_waits_grow_and_the_servers_own_wish_is_heard():
    def busy(handler, reply):
        handler.send(429, b"{}", Retry_After="1")

    with FaultyServer([overloaded, overloaded, busy]) as server:
        generate(arm_at(server.url, attempts=4, first_wait_s=0.1), CONVERSATIONS[:1], Decoding(50))
        waits = [b - a for a, b in zip(server.times, server.times[1:], strict=False)]
        assert waits[0] >= 0.07 and waits[1] >= 0.14 and waits[2] >= 0.99


def test_answers_come_back_in_order_and_several_are_asked_at_once():
    together = threading.Barrier(4, timeout=60)

    def in_company(handler, reply):
        together.wait()  # breaks unless four are there
        handler.send(200, reply)

    with FaultyServer([in_company] * 4) as server:
        answers = generate(arm_at(server.url, at_once=4, timeout_s=90), CONVERSATIONS, Decoding(50))
        assert [row[0].text for row in answers] == [f"re: question {i}" for i in range(6)]
        assert len(server.bodies) == 6 and not together.broken


def test_server_that_stays_away_ends_the_comparison_with_advice():
    with FaultyServer() as server:
        url = server.url
    with pytest.raises(UserError, match="in 3 tries") as error:
        generate(arm_at(url), CONVERSATIONS, Decoding(50))
    assert error.value.exit_code is ExitCode.UNAVAILABLE and "run the same command" in str(error.value)


def test_server_that_dies_midway_is_taken_up_again_without_asking_twice(tmp_path):
    path = tmp_path / "answers.jsonl"
    with FaultyServer([None, None, None, *[reset] * 50]) as server:
        port = server.port
        with pytest.raises(UserError) as error:
            generate(arm_at(server.url, at_once=1), CONVERSATIONS, Decoding(50), cache=AnswerCache(path))
        assert error.value.exit_code is ExitCode.UNAVAILABLE
    kept = path.read_text().count('"key"')
    assert kept == 3
    with FaultyServer(port=port) as server:
        answers = generate(arm_at(server.url), CONVERSATIONS, Decoding(50), cache=AnswerCache(path))
        assert [row[0].text for row in answers] == [f"re: question {i}" for i in range(6)]
        asked = sorted(body["messages"][0]["content"] for body in server.bodies)
        assert asked == ["question 3", "question 4", "question 5"]


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_will_not_pass_ends_at_once(status):
    def refuse(handler, reply):
        handler.send(status, b'{"error": {"message": "no such model"}}')

    with FaultyServer([refuse] * 9) as server:
        with pytest.raises(UserError, match="refuses model 'm'") as error:
            generate(arm_at(server.url), CONVERSATIONS[:1], Decoding(50))
        assert error.value.exit_code is ExitCode.UNAVAILABLE
        assert len(server.bodies) == 1


def test_refused_and_cut_answers_are_told_from_whole_ones():
    def filtered(handler, reply):
        handler.send(200, json.dumps(whole_reply("", "content_filter")).encode())

    def cut(handler, reply):
        handler.send(200, json.dumps(whole_reply("title: half", "length")).encode())

    with FaultyServer([filtered, cut]) as server:
        arm = arm_at(server.url, at_once=1)
        first, second = (row[0] for row in generate(arm, CONVERSATIONS[:2], Decoding(50)))
    assert (first.finish_reason, second.finish_reason) == ("error", "length")
    assert "content_filter" in first.error


def test_a_refused_answer_is_asked_for_again_the_next_time(tmp_path):
    def filtered(handler, reply):
        handler.send(200, json.dumps(whole_reply("", "content_filter")).encode())

    with FaultyServer([filtered]) as server:
        for expected in ("error", "stop", "stop"):
            cache = AnswerCache(tmp_path / "answers.jsonl")
            ((answer,),) = generate(arm_at(server.url), CONVERSATIONS[:1], Decoding(50), cache=cache)
            assert answer.finish_reason == expected
        assert len(server.bodies) == 2


def test_an_end_of_no_known_kind_that_comes_every_time_is_one_refused_answer():
    with FaultyServer([aborted] * 3) as server:
        answers = generate(arm_at(server.url, at_once=1), CONVERSATIONS[:2], Decoding(50))
        assert [row[0].finish_reason for row in answers] == ["error", "stop"] and len(server.bodies) == 4
        assert answers[0][0].error == "the server ended with 'abort'"


def test_a_thought_in_an_answer_kept_before_is_taken_off_a_servers(tmp_path):
    cache = AnswerCache(tmp_path / "answers.jsonl")
    request, thought = Request(tuple(CONVERSATIONS[0])), Answer("Of France.</think>Paris", "stop")
    for kind, text in (("server", "Paris"), ("local", thought.text)):
        cache.put({"kind": kind}, Decoding(), [(request, thought)])
        assert AnswerCache(tmp_path / "answers.jsonl").get({"kind": kind}, request, Decoding()).text == text


def test_other_words_for_an_end_and_a_thought_that_was_cut():
    def ended(handler, reply):
        handler.send(200, json.dumps(whole_reply("Of what?</think>\n\ntitle: whole", "eos_token")).encode())

    def thinking(handler, reply):
        handler.send(200, json.dumps(whole_reply(None, "length")).encode())

    with FaultyServer([ended, thinking]) as server:
        answers = generate(arm_at(server.url, at_once=1), CONVERSATIONS[:2], Decoding(50))
    assert [(row[0].text, row[0].finish_reason) for row in answers] == [("title: whole", "stop"), ("", "length")]


def test_ollama_tells_what_a_name_stands_for():
    with FaultyServer() as server:
        plain = OllamaArm("finetuned", "mine", server.url)
        assert plain.identity == {"kind": "server", "url": server.url, "model": "mine"}
        seen = []
        for digest in ("a1", "b2"):
            server.tags = {"models": [{"name": "other", "digest": "c3"}, {"name": "mine:latest", "digest": digest}]}
            seen.append(OllamaArm("finetuned", "mine", server.url).identity["digest"])
        assert seen == ["a1", "b2"]
    assert "digest" not in OllamaArm("finetuned", "mine", server.url).identity  # nobody answers any more


def test_decoding_is_told_to_the_server_and_every_sample_has_its_seed():
    with FaultyServer() as server:
        generate(arm_at(server.url), CONVERSATIONS[:1], Decoding(77, temperature=0.7, seed=5, samples=3))
        bodies = sorted(server.bodies, key=lambda body: body["seed"])
        assert [body["seed"] for body in bodies] == [5, 6, 7]
        assert {(body["temperature"], body["max_tokens"], body["model"]) for body in bodies} == {(0.7, 77, "m")}
        server.bodies.clear()
        generate(arm_at(server.url), CONVERSATIONS[:1], Decoding(77))
        assert server.bodies[0]["temperature"] == 0 and "seed" not in server.bodies[0]


class RealServer:
    """`transformers serve` with the tiny model, on localhost."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.process = None

    def start(self):
        serve = [sys.executable, "-m", "transformers.cli.transformers", "serve"]
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--device", "cpu", str(self.folder)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        log = self.folder / "serve.log"
        with log.open("w") as file:
            self.process = subprocess.Popen([*serve, *options], env=environment, stdout=file, stderr=file)
        deadline = time.monotonic() + 300  # of a machine that has much else to do
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=1)
                return
            except OSError:
                assert self.process.poll() is None, log.read_text()
                time.sleep(0.1)
        raise AssertionError("the server did not come up: " + log.read_text())

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def real_server(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("served"), [m.content for row in CONVERSATIONS for m in row])
    server = RealServer(folder)
    server.start()
    yield server
    server.kill()


def test_real_server_that_dies_midway_gives_in_the_end_the_answers_of_the_local_model(real_server, tmp_path):
    folder, path = real_server.folder, tmp_path / "answers.jsonl"
    local = generate(open_arm("local", str(folder)), CONVERSATIONS, Decoding(24))
    arm = ServerArm("served", str(folder), real_server.url, timeout_s=60, attempts=2, first_wait_s=0.1, at_once=2)
    generate(arm, CONVERSATIONS[:3], Decoding(24), cache=AnswerCache(path))
    real_server.kill()
    with pytest.raises(UserError, match="in 2 tries") as error:
        generate(arm, CONVERSATIONS, Decoding(24), cache=AnswerCache(path))
    assert error.value.exit_code is ExitCode.UNAVAILABLE
    assert path.read_text().count('"key"') == 3, "what was answered is kept"
    real_server.start()
    served = generate(arm, CONVERSATIONS, Decoding(24), cache=AnswerCache(path))
    for field in ("text", "finish_reason", "prompt_tokens"):
        assert [getattr(row[0], field) for row in served] == [getattr(row[0], field) for row in local]
    assert path.read_text().count('"key"') == 6, "and not asked again"


def test_real_server_refuses_a_model_it_does_not_have(real_server):
    arm = ServerArm("served", "no/such-model", real_server.url, timeout_s=60, attempts=2, first_wait_s=0.1)
    with pytest.raises(UserError) as error:
        generate(arm, CONVERSATIONS[:1], Decoding(4))
    assert error.value.exit_code is ExitCode.UNAVAILABLE


def test_real_server_listens_on_localhost_only(real_server):
    import psutil

    listening = [c.laddr for c in psutil.Process(real_server.process.pid).net_connections() if c.status == "LISTEN"]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", real_server.port)]
