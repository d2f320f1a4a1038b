"""JSON over HTTP to a language model's server: retries, and errors that say what to do.

Through the standard library's urllib: it is always there, honours proxies, and needs no version
pinned; httpx2 comes with another library's dependencies alone and may leave with them.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from bench.errors import BenchError, InputError, one_line

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LONGEST_WAIT = 60.0  # seconds
_MOST_BYTES = 1 << 25


class RemoteError(BenchError):
    """The endpoint gave no usable answer. The cell fails; nothing of it is stored."""


def check_url(url: str) -> str:
    """The endpoint without its last slash.

    Raises:
        InputError: it is no http address, or it holds what does not belong into a grid.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        good = False
    if not good:
        shown = "this" if "@" in url else repr(url)  # what may be a password is not repeated
        raise InputError(f"{shown} is no address of an endpoint", key="endpoint",
                         hint="such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise InputError("the endpoint's address holds a user, a password or a query",
                         key="endpoint", hint="grids and results are shared: put the key into an "
                         "environment variable and name that with key_from")
    return url.rstrip("/")


def check_key_name(name: str) -> str:
    """The name of an environment variable. What looks like a key itself is not repeated.

    Raises:
        InputError: it is no such name.
    """
    if name and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise InputError("key_from names an environment variable, in capitals; it is not the key",
                         key="key_from", hint="export LLM_KEY=… and write key_from: LLM_KEY")
    return name


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


@dataclass(kw_only=True)
class Transport:
    """Posts JSON to one server.

    Attributes:
        url: up to and with /v1.
        key_from: environment variable with the API key, or "". The key is read when it is sent,
            and stands in no file and no message.
        timeout: seconds without an answer. retries: further tries after 408, 429, 5xx and broken
            connections, `backoff` seconds apart, doubled each time; `sleep` waits.
        counts: "remote_calls", "remote_cache_hits" (answers that were stored before, each once),
            "remote_retries". asked: questions since counting began.
    """

    url: str
    key_from: str = ""
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 1.0
    sleep: Callable[[float], None] = time.sleep
    counts: dict[str, int] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.url = check_url(self.url)
        check_key_name(self.key_from)
        near = urlsplit(self.url).hostname in ("localhost", "127.0.0.1", "::1")
        proxies = [urllib.request.ProxyHandler({})] if near else []  # no proxy to this machine
        self._opener = urllib.request.build_opener(_NoRedirects(), *proxies)
        self._counting, self.stopped = threading.Lock(), threading.Event()

    def count(self, what: str, n: int = 1) -> None:
        with self._counting:
            self.counts[what] = self.counts.get(what, 0) + n

    def take_counts(self) -> dict[str, int]:
        """What was counted since it was last asked; counting starts over."""
        with self._counting:
            found, self.counts, self.asked = self.counts, {}, set()
        return found

    def _secret(self) -> str:
        if not self.key_from:
            return ""
        if not os.environ.get(self.key_from, "").strip():
            raise RemoteError(f"the environment variable {self.key_from}, which key_from names, "
                              "is not set (export it, or leave key_from out)")
        found = os.environ[self.key_from].strip()
        if not (found.isascii() and found.isprintable()):
            raise RemoteError(f"the key in {self.key_from} holds characters that no header may "
                              "hold (set it again)")
        return found

    def clean(self, text: object) -> str:
        """A server's text for a message: on one line, short, without the key."""
        secret = os.environ.get(self.key_from, "").strip() if self.key_from else ""
        said = one_line(text)
        return _cut(said.replace(secret, "…") if secret else said)

    def _body_of(self, error: urllib.error.HTTPError) -> str:
        try:
            return self.clean(error.read(2000).decode("utf-8", "replace"))
        except (HTTPException, OSError):
            return "no text"

    def post(self, path: str, body: Mapping[str, Any]) -> str:
        """The text of the answer, after retries."""
        secret, sent = self._secret(), json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if secret:
            headers["Authorization"] = f"Bearer {secret}"
        why = ""
        for tried in range(self.retries + 1):
            wait = self.backoff * 2 ** tried
            request = urllib.request.Request(self.url + path, sent, headers)
            self.count("remote_calls")
            try:
                with self._opener.open(request, timeout=self.timeout) as answer:
                    text: str = answer.read(_MOST_BYTES).decode("utf-8", "replace")
                return text
            except urllib.error.HTTPError as error:
                said = self._body_of(error)
                if error.code not in _AGAIN:
                    raise RemoteError(self._refused(error.code, said)) from None
                why = f"status {error.code}: {said}"
                asked = error.headers.get("Retry-After", "")
                if asked.isdecimal():
                    wait = max(wait, float(asked))
            except urllib.error.URLError as error:
                self._unreachable(error.reason)
                why = self.clean(error.reason)
            except (HTTPException, OSError) as error:  # cut off, or too slow
                why = f"{type(error).__name__} {self.clean(error)}".strip()
            if self.stopped.is_set():  # another request has failed for good
                break
            if tried < self.retries:
                self.count("remote_retries")
                self.sleep(min(wait, _LONGEST_WAIT))
        raise RemoteError(f"{self.url} gave no answer in {self.retries + 1} tries, the last: {why} "
                          "(what was answered is stored: run again when it works)")

    def _unreachable(self, reason: object) -> None:
        """Raise where trying again is no use."""
        if isinstance(reason, ConnectionRefusedError):
            raise RemoteError(f"nothing listens at {self.url}: connection refused (start the "
                              "server, or correct endpoint)") from None
        if isinstance(reason, socket.gaierror):
            raise RemoteError(f"{urlsplit(self.url).hostname!r} is not known: {reason.strerror} "
                              "(correct endpoint, or check the network)") from None
        if isinstance(reason, ssl.SSLError):
            raise RemoteError(f"{self.url}: no secure connection: {self.clean(reason)}"
                              ) from None

    def _refused(self, status: int, said: str) -> str:
        advice = {401: "key_from names the environment variable with the API key" if not
                  self.key_from else f"check the key in {self.key_from}",
                  403: "this key may not use this model",
                  404: "check the model's name, and that endpoint ends where "
                       "/completions begins, such as …/v1",
                  400: "a prompt that is too long: a smaller history; a parameter that the "
                       "server does not know: the other api, or a smaller top"}
        advice[422] = advice[400]
        hint = advice.get(status, "see the server's own log")
        if 300 <= status < 400:
            hint = "it sends on to another address, which is not followed: correct endpoint"
        return f"{self.url} refuses, status {status}: {said} ({hint})"


def _cut(text: str) -> str:
    return text if len(text) <= 300 else text[:299] + "…"
