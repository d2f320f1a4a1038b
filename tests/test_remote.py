"""Language models behind an endpoint, against a stand-in server on this machine."""

from __future__ import annotations

import json
import math
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.context import Context
from bench.data import Dataset
from bench.errors import BenchError, InputError
from bench.keys import Keys
from bench.models.base import build
from bench.models.remote_listwise import RemoteListwise
from bench.models.remote_title_likelihood import RemoteTitleLikelihood
from bench.models.remote_yes_no import RemoteYesNo
from bench.registry import Registry
from bench.testing import Skip, contracts
from bench.text.remote import Endpoint, margin
from bench.text.remote_cache import Answers
from bench.text.remote_http import RemoteError, Transport

CHECKOUT = Path(__file__).resolve().parents[1]
Answer = tuple[int, Any]
TOP = {"Yes": -0.5, " yes": -1.5, "No": -2.0, "Maybe": -3.0}


class StandIn(ThreadingHTTPServer):
    """Answers POSTs with what `reply` gives for path and body; keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers_seen: list[dict[str, str]] = []
        self.reply: Callable[[str, dict[str, Any]], Answer] = first_token
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.asked.append(body)
                server.headers_seen.append(dict(self.headers))
                status, answer = server.reply(self.path, body)
                sent = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in getattr(server, "more", {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(sent)))
                self.end_headers()
                self.wfile.write(sent)

            def log_message(self, *_: Any) -> None:
                return None

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def chat(top: dict[str, float]) -> Answer:
    rows = [{"token": t, "logprob": v} for t, v in top.items()]
    return 200, {"choices": [{"message": {"content": next(iter(top))},
                              "logprobs": {"content": [{"top_logprobs": rows}]}}]}


def first_token(path: str, body: dict[str, Any]) -> Answer:
    if path == "/v1/chat/completions":
        return chat(TOP)
    assert path == "/v1/completions"
    return 200, {"choices": [{"text": "Yes", "logprobs": {"top_logprobs": [TOP]}}]}


def blocks_reader(path: str, body: dict[str, Any]) -> Answer:
    """Says yes the more probably, the more often the candidate's genre is in the history."""
    prompt = body["messages"][0]["content"]
    genre = re.findall(r"genre\d+", prompt)
    yes = (genre[:-1].count(genre[-1]) + 0.5) / (len(genre) + 1)
    title = int(re.findall(r"title (\d+)", prompt)[-1])
    return chat({"Yes": math.log(yes) - title * 1e-6, "No": math.log(1 - yes)})


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setenv("BENCH_ANSWERS", str(tmp_path / "answers.sqlite"))
    made = StandIn()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join(5)


@pytest.fixture(scope="module")
def data() -> Dataset:
    plugin: Any = Registry().make("datasets", {"name": "blocks"})
    loaded: Dataset = plugin.load()
    return loaded


def endpoint(server: StandIn, **more: Any) -> Endpoint:
    return Endpoint(url=server.url, model=more.pop("model", "m"), backoff=0.01, **more)


def fitted(plugin: Any, data: Dataset) -> Any:
    made = build(plugin, data, Context(0))
    none: Any = Registry().make("defenses", {"name": "none"})
    made.fit(none, lambda event: None)
    return made


# -- margins -------------------------------------------------------------------------------------

def test_the_margin_is_that_of_the_probabilities() -> None:
    yes = math.exp(-0.5) + math.exp(-1.5)
    assert margin(TOP, ["Yes", " yes", "Yes"], ["No", "no"]) == pytest.approx(math.log(yes) + 2.0)
    assert margin(TOP, ["Oui"], ["No"]) == pytest.approx(-3.0 + 2.0)  # the least one given
    assert margin(TOP, ["Oui"], ["Non"]) is None


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_server_is_asked_for_one_token_and_its_alternatives(server: StandIn, api: str) -> None:
    assert endpoint(server, api=api).first_tokens(["Good?"]) == [TOP]
    body = server.asked[0]
    assert (body["max_tokens"], body["temperature"], body["model"]) == (1, 0, "m")
    if api == "chat":
        assert body["messages"] == [{"role": "user", "content": "Good?"}]
        assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    else:
        assert (body["prompt"], body["logprobs"]) == ("Good?", 20)


def test_marks_of_tokenizers_are_spaces(server: StandIn) -> None:
    server.reply = lambda path, body: chat({"▁Yes": -1.0, "ĠYes": -1.0, "No": -2.0})
    found = endpoint(server).first_tokens(["x"])[0]
    assert found == {" Yes": pytest.approx(-1.0 + math.log(2)), "No": -2.0}


def test_the_likelihood_is_the_mean_over_the_texts_own_tokens(server: StandIn) -> None:
    def reply(path: str, body: dict[str, Any]) -> Answer:
        assert body["echo"]
        assert body["prompt"] == "liked: Heat\n- Alien 3"
        return 200, {"choices": [{"text": "", "logprobs": {
            "text_offset": [0, 6, 12, 20, 22], "token_logprobs": [None, -9.0, -1.0, -3.0, -50.0]}}]}

    server.reply = reply  # the text begins at 14, inside a token; what is written begins at 21
    found = endpoint(server, api="completions").log_likelihood("liked: Heat\n- ", ["Alien 3"])
    assert found == [pytest.approx((-1.0 - 3.0) / 2)]


def test_a_likelihood_without_echo_is_refused(server: StandIn) -> None:
    with pytest.raises(InputError, match="api: completions"):
        endpoint(server).log_likelihood("a", ["b"])
    server.reply = lambda path, body: (200, {"choices": [{"text": "b"}]})
    with pytest.raises(RemoteError, match="does not repeat the prompt"):
        endpoint(server, api="completions").log_likelihood("a", ["b"])


# -- stored answers ------------------------------------------------------------------------------

def test_nothing_is_asked_twice_and_everything_else_is(server: StandIn) -> None:
    first = endpoint(server)
    first.first_tokens(["a", "b", "a"])
    assert len(server.asked) == 2
    assert first.counts == {"remote_calls": 2, "remote_cache_hits": 0}
    again = endpoint(server)
    assert again.first_tokens(["b", "a"]) == [TOP, TOP]
    assert len(server.asked) == 2
    assert again.counts == {"remote_cache_hits": 2}
    for n, other in enumerate([{"model": "n"}, {"revision": "2"}, {"top": 5},
                               {"api": "completions"}]):
        endpoint(server, **other).first_tokens(["a"])
        assert len(server.asked) == 3 + n, other
    endpoint(server).first_tokens(["a "])
    endpoint(server).write(["a"], 1)
    endpoint(server).write(["a"], 2)
    assert len(server.asked) == 9


PUT = """
import sys
from pathlib import Path
from bench.text.remote_cache import Answers
for n in range(int(sys.argv[2]), int(sys.argv[2]) + 40):
    Answers(Path(sys.argv[1])).put("m", {str(n): n})
"""


def test_several_processes_share_the_answers(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    workers = [subprocess.Popen([sys.executable, "-c", PUT, str(path), str(n)], cwd=CHECKOUT)
               for n in (0, 20)]
    assert [w.wait(60) for w in workers] == [0, 0]
    assert Answers(path).get(list(map(str, range(61)))) == {str(n): n for n in range(60)}


def test_a_damaged_file_of_answers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    path.write_bytes(b"no database, but long enough to be read as one" * 40)
    with pytest.raises(InputError, match=r"a\.sqlite: the stored answers cannot be used"):
        Answers(path).get(["x"])


def test_what_was_answered_before_an_error_is_kept(server: StandIn) -> None:
    def reply(path: str, body: dict[str, Any]) -> Answer:
        return (403, {}) if "bad" in body["messages"][0]["content"] else chat(TOP)

    server.reply = reply
    with pytest.raises(RemoteError):
        endpoint(server, at_once=1).first_tokens(["a", "b", "bad", "c"])
    asked = len(server.asked)
    assert endpoint(server).first_tokens(["a", "b"]) == [TOP, TOP]
    assert len(server.asked) == asked


# -- errors --------------------------------------------------------------------------------------

def test_a_busy_server_is_asked_again_when_it_says(server: StandIn) -> None:
    waits: list[float] = []
    server.more = {"Retry-After": "7"}  # type: ignore[attr-defined]
    server.reply = lambda path, body: (429, {}) if len(server.asked) < 3 else chat(TOP)
    one = endpoint(server, sleep=waits.append)
    assert one.first_tokens(["a"]) == [TOP]
    assert waits == [7.0, 7.0]
    assert (one.counts["remote_calls"], one.counts["remote_retries"]) == (3, 2)


def test_waits_double_and_end(server: StandIn) -> None:
    waits: list[float] = []
    server.reply = lambda path, body: (500, {"error": "out of order"})
    start = time.monotonic()
    with pytest.raises(RemoteError, match=r"no answer in 4 tries, the last: status 500: .*order"):
        endpoint(server, retries=3, sleep=waits.append).first_tokens(["a"])
    assert waits == [0.01, 0.02, 0.04]
    assert len(server.asked) == 4
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(("status", "said"), [
    (401, "key_from names the environment variable"), (403, "may not use this model"),
    (404, "check the model's name"), (400, "a smaller history"), (418, "the server's own log"),
    (302, "not followed")])
def test_what_trying_again_cannot_mend_is_said_at_once(server: StandIn, status: int,
                                                       said: str) -> None:
    server.more = {"Location": server.url + "/elsewhere"}  # type: ignore[attr-defined]
    server.reply = lambda path, body: (status, {"error": "no"})
    with pytest.raises(RemoteError, match=f"status {status}.*{re.escape(said)}"):
        endpoint(server).first_tokens(["a"])
    assert len(server.asked) == 1


@pytest.mark.parametrize("answer", [
    b"<html>not json</html>", b"[]", b'{"choices": []}', b'{"choices": [1]}', b"\xff\xfe"])
def test_an_answer_that_is_none_is_shown(server: StandIn, answer: bytes) -> None:
    server.reply = lambda path, body: (200, answer)
    with pytest.raises(RemoteError, match="something else than a completion"):
        endpoint(server).first_tokens(["a"])


@pytest.mark.parametrize("logprobs", [None, {}, {"content": []}, {"content": [{}]},
                                      {"content": [{"top_logprobs": []}]},
                                      {"content": [{"top_logprobs": [{"token": "a"}]}]}])
def test_a_server_without_log_probabilities_is_named(server: StandIn, logprobs: Any) -> None:
    server.reply = lambda path, body: (200, {"choices": [{"message": {"content": "Yes"},
                                                          "logprobs": logprobs}]})
    for _ in range(2):  # and its answer is not stored
        with pytest.raises(RemoteError, match="without log-probabilities"):
            endpoint(server).first_tokens(["a"])
    assert len(server.asked) == 2
    server.reply = first_token
    assert endpoint(server).first_tokens(["a"]) == [TOP]


def test_a_server_that_is_not_there_or_says_nothing(server: StandIn) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(RemoteError, match="connection refused"):
        Endpoint(url=url, model="m").first_tokens(["a"])

    def slow(path: str, body: dict[str, Any]) -> Answer:
        time.sleep(0.5)
        return chat(TOP)

    server.reply = slow
    with pytest.raises(RemoteError, match=r"no answer in 2 tries, the last: .*[Tt]ime"):
        endpoint(server, timeout=0.1, retries=1).first_tokens(["a"])


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://host/v1", "http://", "http://h:x/v1",
                                 "http://user:secret@host/v1", "https://host/v1?key=secret"])
def test_an_address_is_checked_before_anything_runs(url: str) -> None:
    if url:
        with pytest.raises(InputError) as caught:
            RemoteYesNo(endpoint=url, model="m")
        assert "secret" not in str(caught.value) or url not in str(caught.value)
        assert "user:secret" not in str(caught.value)
    with pytest.raises(InputError):
        Endpoint(url=url, model="m")


# -- the key -------------------------------------------------------------------------------------

def test_the_key_is_sent_and_stands_nowhere(server: StandIn, tmp_path: Path, data: Dataset,
                                            monkeypatch: pytest.MonkeyPatch,
                                            caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("TEST_LLM_KEY", "sesame-0123456789")
    plugin = RemoteYesNo(endpoint=server.url, model="m", key_from="TEST_LLM_KEY", candidates=3)
    fitted(plugin, data).scores(torch.tensor([0]))
    assert server.headers_seen[0]["Authorization"] == "Bearer sesame-0123456789"
    written = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert written
    assert not any(b"sesame" in p.read_bytes() for p in written)
    server.reply = lambda path, body: (401, {"error": "wrong key: sesame-0123456789"})
    with pytest.raises(RemoteError, match="check the key in TEST_LLM_KEY") as caught:
        fitted(plugin, data).scores(torch.tensor([1]))
    assert "sesame" not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"
    assert "sesame" not in json.dumps(plugin.params())


@pytest.mark.parametrize(("value", "said"), [(None, "is not set"), ("", "is not set"),
                                             ("two\nlines", "no header may hold")])
def test_a_key_that_cannot_be_sent(server: StandIn, monkeypatch: pytest.MonkeyPatch,
                                   value: str | None, said: str) -> None:
    monkeypatch.delenv("TEST_LLM_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("TEST_LLM_KEY", value)
    with pytest.raises(RemoteError, match=said):
        endpoint(server, key_from="TEST_LLM_KEY").first_tokens(["a"])
    assert not server.asked


def test_a_key_in_place_of_its_variables_name_is_not_repeated() -> None:
    with pytest.raises(InputError) as caught:
        RemoteYesNo(endpoint="http://h/v1", model="m", key_from="sk-abc123")
    assert "abc123" not in str(caught.value)


# -- models --------------------------------------------------------------------------------------

def test_scores_are_the_margins_of_the_candidates(server: StandIn, data: Dataset) -> None:
    server.reply = blocks_reader
    made = fitted(RemoteYesNo(endpoint=server.url, model="m", candidates=5, history=3), data)
    scores = made.scores(torch.tensor([0]))[0]
    best = scores.argsort(descending=True)[:5].tolist()
    history = made.history(0, "test")[-3:].tolist()
    genres = [made.texts[i].split()[-1] for i in history]
    slow = {}
    for item in best:
        yes = (genres.count(made.texts[item].split()[-1]) + 0.5) / 5
        slow[item] = math.log(yes) - item * 1e-6 - math.log(1 - yes)
    assert scores[best].tolist() == pytest.approx([slow[i] - min(slow.values()) for i in best],
                                                  abs=1e-5)
    assert made.take_facts() == {"remote_calls": 5, "remote_cache_hits": 0, "answers": 5,
                                 "answers_undecided": 0}
    made.scores(torch.tensor([0]))
    assert made.take_facts()["remote_cache_hits"] == 5
    texts = [f"{t} now genre9" if i == best[0] else t for i, t in enumerate(made.texts)]
    with made.reading_texts(texts):
        assert float(made.scores(torch.tensor([0]))[0, best[0]]) < float(scores[best[0]])
    assert made.take_facts()["remote_calls"] == 1  # what an attacker has rewritten is asked anew
    with made.stating("The user is a child.\n"):
        made.scores(torch.tensor([0]))
    assert made.take_facts()["remote_calls"] == 5
    assert server.asked[-1]["messages"][0]["content"].startswith("The user is a child.\nA user")
    prompt = server.asked[0]["messages"][0]["content"]
    assert prompt.startswith("A user liked the following")
    assert all(made.texts[i] in prompt for i in history)


def test_a_model_that_says_neither_is_given_up(server: StandIn, data: Dataset) -> None:
    server.reply = lambda path, body: chat({"<think>": -0.1, "Well": -2.0})
    made = fitted(RemoteYesNo(endpoint=server.url, model="m", candidates=12), data)
    first = made.scores(torch.tensor([0]))[0]
    assert made.take_facts()["answers_undecided"] == 12
    assert len(first.topk(12).values.unique()) == 1
    with pytest.raises(RemoteError, match=r"none of its first 24 answers.*<think>"):
        made.scores(torch.tensor([1]))


def likely_words(path: str, body: dict[str, Any]) -> Answer:
    """A word is the more probable, the more often it stood before in the prompt."""
    words = list(re.finditer(r"\s*\S+", body["prompt"]))
    seen = [w.group().strip() for w in words]
    values = [math.log((seen[:n].count(w) + 0.1) / (n + 2)) for n, w in enumerate(seen)]
    return 200, {"choices": [{"text": " x", "logprobs": {
        "text_offset": [w.start() for w in words] + [len(body["prompt"])],
        "token_logprobs": [None, *values[1:], -5.0]}}]}


@pytest.mark.parametrize("pmi", [False, True])
def test_the_likelihood_of_titles(server: StandIn, data: Dataset, pmi: bool) -> None:
    server.reply = likely_words
    made = fitted(RemoteTitleLikelihood(endpoint=server.url, model="m", candidates=5, history=3,
                                        pmi=pmi), data)
    scores = made.scores(torch.tensor([0]))[0]
    best = scores.argsort(descending=True)[:5].tolist()

    def slow(item: int, history: list[int]) -> float:
        before = made.prompt.before([made.texts[i] for i in history]) + "-"
        words, total = before.split(), []
        for word in made.texts[item].split():
            total.append(math.log((words.count(word) + 0.1) / (len(words) + 2)))
            words.append(word)
        return sum(total) / len(total)

    history = made.history(0, "test")[-3:].tolist()
    each = {i: slow(i, history) - (slow(i, []) if pmi else 0.0) for i in best}
    assert scores[best].tolist() == pytest.approx([each[i] - min(each.values()) for i in best],
                                                  abs=1e-5)
    assert len(server.asked) == (10 if pmi else 5)


@pytest.mark.parametrize("cls", [RemoteYesNo, RemoteListwise, RemoteTitleLikelihood])
def test_the_contracts_of_models_hold(cls: Any, tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of questions: answered here, without a server."""
    reply = {RemoteYesNo: blocks_reader, RemoteListwise: written_order}.get(cls, likely_words)
    monkeypatch.setenv("BENCH_ANSWERS", str(tmp_path / "answers.sqlite"))
    monkeypatch.setattr(Transport, "post", lambda self, path, body: json.dumps(
        reply("/v1" + path, body)[1]))
    params = {"endpoint": "http://localhost/v1", "model": "m", "candidates": 12, "history": 6}
    ran = 0
    for check in contracts("models", cls, registry=Registry(), params=params):
        if check.name in ("spawned-worker",):
            continue
        try:
            check.run()
            ran += 1
        except Skip:
            pass
    assert ran >= 8


def written_order(path: str, body: dict[str, Any]) -> Answer:
    """Lists the candidates of the genre that is most often in the history, then the others."""
    history, asked = body["messages"][0]["content"].split("These are the candidates")
    genres = re.findall(r"genre\d+", history)
    lines = re.findall(r"(\d+)\. .*(genre\d+)", asked)
    order = sorted(lines, key=lambda x: -genres.count(x[1]))
    return 200, {"choices": [{"message": {"content": ", ".join(n for n, _ in order)}}]}


def test_a_written_order_is_read(server: StandIn, data: Dataset) -> None:
    server.reply = written_order
    made = fitted(RemoteListwise(endpoint=server.url, model="m", candidates=8, history=6,
                                 bootstraps=2), data)
    scores = made.scores(torch.tensor([0]))[0]
    best = scores.argsort(descending=True)[:8].tolist()
    genres = [made.texts[i].split()[-1] for i in made.history(0, "test")[-6:]]
    counts = [genres.count(made.texts[i].split()[-1]) for i in best]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1]
    facts = made.take_facts()
    assert (facts["answers"], facts["candidates_appended_at_random"]) == (2, 0)
    server.reply = lambda path, body: (200, {"choices": [{"message": {"content": "2"}}]})
    made.scores(torch.tensor([1]))
    facts = made.take_facts()
    assert facts["answers_incomplete"] == 2
    assert facts["candidates_appended_at_random"] == 14


@pytest.mark.parametrize("name", ["listwise", "yes-no", "title-likelihood"])
def test_an_evaluation_counts_each_question_once_and_as_local_models_do(
        server: StandIn, data: Dataset, name: str) -> None:
    """Evaluation scores its first users twice, to warm up."""
    from bench.evaluate import evaluate

    def echo(path: str, body: dict[str, Any]) -> Answer:
        return 200, {"choices": [{"text": "", "logprobs": {
            "text_offset": [0, 1], "token_logprobs": [None, -1.0]}}]}

    some, more = data.replace(asked=np.arange(6)), {"candidates": 4, "history": 3, "model": "m"}
    if name == "listwise":
        server.reply, more = written_order, more | {"bootstraps": 2}
    if name == "title-likelihood":
        server.reply, more = echo, more | {"api": "completions"}
    remote = fitted(Registry().make("models", {"name": f"remote-{name}", "params": {
        **more, "endpoint": server.url}}), some)
    found = []
    for _ in range(2):
        evaluate(remote, some, ["ndcg@10"])
        found.append(remote.take_facts())
    asked = 6 * (2 if name == "listwise" else 4)
    assert found[0]["remote_calls"] == asked
    assert [f["answers"] for f in found] == [asked, asked]
    assert [f["remote_cache_hits"] for f in found] == [0, asked]
    if name == "listwise":
        local = fitted(Registry().make("models", {"name": "listwise", "params": {
            "candidates": 4, "model": "tiny-random", "read": "generate", "tokens": 2}}), some)
        evaluate(local, some, ["ndcg@10"])
        assert set(local.take_facts()) == set(found[0]) - {"remote_calls", "remote_cache_hits"}


def test_what_is_missing_is_said_before_anything_runs(data: Dataset) -> None:
    assert "no endpoint is named" in str(RemoteYesNo(model="m").unfit(data))
    assert "no language model" in str(RemoteYesNo(endpoint="http://h/v1").unfit(data))
    bare = data.replace(item_text=None)
    assert "no item texts" in str(RemoteYesNo(endpoint="http://h/v1", model="m").unfit(bare))
    with pytest.raises(InputError, match="dtype"):
        RemoteYesNo(endpoint="http://h/v1", model="m", dtype="float16")


def test_another_revision_is_another_model() -> None:
    none: Any = Registry().make("defenses", {"name": "none"})
    keys = {Keys().train("d", None, RemoteYesNo(endpoint="http://h/v1", model="m", revision=r),
                         none, 0) for r in ("", "2")}
    assert len(keys) == 2


def test_the_error_is_one_that_the_command_prints() -> None:
    assert issubclass(RemoteError, BenchError)
    assert not np.isnan(margin({"Yes": -1.0, "No": -1e9}, ["Yes"], ["No"]) or 0.0)
