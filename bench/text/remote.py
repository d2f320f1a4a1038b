"""Language models behind an OpenAI-compatible endpoint: vLLM, Ollama, vendors."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from bench.errors import InputError
from bench.text.remote_cache import Answers, answers_file
from bench.text.remote_http import RemoteError, Transport

_STORED_EVERY = 1.0  # seconds; writing each answer to the disk takes longer than a server


@dataclass(kw_only=True)
class Endpoint(Transport):
    """A remote model that is asked in text and answers in text or log-probabilities, greedily.

    Every answer is kept on disk under endpoint, model, revision, parameters and the full prompt.

    Attributes:
        model: its name there. revision: whatever tells two states of this model apart; the
            server is not told.
        api: chat (the prompt is the user's message) or completions (the prompt is continued).
        top: most probable first tokens asked for. at_once: requests under way together.
    """

    model: str
    api: str = "chat"
    revision: str = ""
    top: int = 20
    at_once: int = 8

    # -- questions -------------------------------------------------------------------------------

    def first_tokens(self, prompts: Sequence[str]) -> list[dict[str, float]]:
        """Log-probability of the most probable first tokens of each answer, by token.

        Raises:
            RemoteError: also where the server gives no log-probabilities.
        """
        more: dict[str, Any] = {"logprobs": self.top} if self.api == "completions" else \
            {"logprobs": True, "top_logprobs": self.top}
        return self._ask([self._body(p, 1, **more) for p in prompts], self._read_first)

    def write(self, prompts: Sequence[str], most: int) -> list[str]:
        """Greedy answers of at most so many tokens."""
        return self._ask([self._body(p, most) for p in prompts], self._read_text)

    def log_likelihood(self, prefix: str, texts: Sequence[str]) -> list[float]:
        """(1/L) Σ log p(w_l | prefix, w_<l) over the L tokens of each text, in nats per token. A
        token that begins in the prefix and ends in the text counts.

        Raises:
            InputError: chat has no log-probabilities of what was sent.
            RemoteError: also where the server does not repeat the prompt with them.
        """
        if self.api != "completions":
            raise InputError("a chat gives no probability of a text that it did not write",
                             key="api", hint="api: completions, with a server that has echo "
                             "(vLLM)")
        bodies = [self._body(prefix + t, 1, echo=True, logprobs=1) for t in texts]
        found = self._ask(bodies, self._read_echo)
        return [_mean_after(tokens, len(prefix), len(prefix + t))
                for tokens, t in zip(found, texts, strict=True)]

    def _body(self, prompt: str, most: int, **more: Any) -> dict[str, Any]:
        said: dict[str, Any] = {"prompt": prompt} if self.api == "completions" else \
            {"messages": [{"role": "user", "content": prompt}]}
        return {"model": self.model, **said, "max_tokens": most, "temperature": 0, **more}

    # -- answers ---------------------------------------------------------------------------------

    def _read_first(self, choice: Mapping[str, Any]) -> dict[str, float]:
        try:
            given = choice["logprobs"]
            rows = given["top_logprobs"][0].items() if self.api == "completions" else \
                [(t["token"], t["logprob"]) for t in given["content"][0]["top_logprobs"]]
            found: dict[str, float] = {}
            for token, value in rows:
                text = token.replace("▁", " ").replace("Ġ", " ")
                found[text] = _log_add(found.get(text, -math.inf), float(value))
            if not found:
                raise IndexError
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise RemoteError(
                f"{self.model!r} at {self.url} answers without log-probabilities of its first "
                "token, and a yes or no is read from them (vLLM gives them, so does Ollama from "
                "0.12.11 on; try the other api; remote-listwise needs none)") from error
        return found

    def _read_text(self, choice: Mapping[str, Any]) -> str:
        text = choice.get("text") if self.api == "completions" else \
            (choice.get("message") or {}).get("content")
        if not isinstance(text, str):
            raise RemoteError(f"{self.url} answers without any text: "
                              f"{self.clean(json.dumps(choice))}")
        return text

    def _read_echo(self, choice: Mapping[str, Any]) -> list[tuple[int, float]]:
        try:
            given = choice["logprobs"]
            values = [-math.inf if v is None else float(v) for v in given["token_logprobs"]]
            found = list(zip(map(int, given["text_offset"]), values, strict=True))
            if len(found) < 2 or found[0][0] != 0:
                raise ValueError("the prompt is not repeated")
        except (KeyError, TypeError, ValueError) as error:
            raise RemoteError(
                f"{self.model!r} at {self.url} does not repeat the prompt with its "
                "log-probabilities (echo), so that a text has no likelihood there (vLLM has it; "
                "take remote-yes-no otherwise)") from error
        return found

    def _ask(self, bodies: Sequence[dict[str, Any]],
             read: Callable[[Mapping[str, Any]], Any]) -> list[Any]:
        """What is read of the answers; those not stored are asked for, each once, and stored as
        they come, so that an error loses none that came before it."""
        keys = [self._key(b) for b in bodies]
        store = Answers(answers_file())
        found = store.get(list(dict.fromkeys(keys)))
        with self._counting:
            before = set(self.asked)
            self.asked.update(keys)
        # an answer that came in this very count is none of an earlier run's
        self.count("remote_cache_hits", sum(k in found and k not in before
                                            for k in dict.fromkeys(keys)))
        new = {k: b for k, b in zip(keys, bodies, strict=True) if k not in found}
        if new:
            self.stopped.clear()
            pool = ThreadPoolExecutor(min(self.at_once, len(new)))
            waiting = {pool.submit(self._answer, b, read): k for k, b in new.items()}
            fresh: dict[str, Any] = {}
            stored = time.monotonic()
            try:
                for done in as_completed(waiting):
                    fresh[waiting[done]] = done.result()
                    if time.monotonic() - stored > _STORED_EVERY:
                        store.put(self.model, fresh)
                        found, fresh, stored = found | fresh, {}, time.monotonic()
            except BaseException:
                self.stopped.set()
                raise
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                store.put(self.model, fresh)
                found |= fresh
        return [found[k] for k in keys]

    def _key(self, body: Mapping[str, Any]) -> str:
        text = json.dumps([self.url, self.api, self.revision, body], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _answer(self, body: Mapping[str, Any], read: Callable[[Mapping[str, Any]], Any]) -> Any:
        text = self.post("/chat/completions" if self.api == "chat" else "/completions", body)
        try:
            choice = json.loads(text)["choices"][0]
            if not isinstance(choice, dict):
                raise TypeError
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise RemoteError(f"{self.url} answers with something else than a completion: "
                              f"{self.clean(text)} (is it an OpenAI-compatible endpoint, up to "
                              "and with /v1?)") from error
        return read(choice)


def _log_add(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _mean_after(tokens: Sequence[Sequence[float]], begin: int, end: int) -> float:
    """Mean log-probability of the tokens that end after `begin` and begin before `end`; tokens
    are (offset in characters, log-probability)."""
    ends = [int(t[0]) for t in tokens[1:]] + [end]
    inside = [float(value) for (at, value), stop in zip(tokens, ends, strict=True)
              if stop > begin and at < end]
    return sum(inside) / len(inside) if inside else 0.0


def margin(top: Mapping[str, float], yes: Sequence[str], no: Sequence[str]) -> float | None:
    """log Σ P(yes) − log Σ P(no) over the tokens given; None where neither is among them. Where
    one side is not, it gets the least log-probability given, which it cannot exceed."""
    floor = min(top.values())
    sums = []
    for texts in (yes, no):
        inside = [top[t] for t in dict.fromkeys(texts) if t in top]
        total = -math.inf
        for value in inside:
            total = _log_add(total, value)
        sums.append(total)
    if sums == [-math.inf, -math.inf]:
        return None
    first, second = (floor if s == -math.inf else s for s in sums)
    return first - second
