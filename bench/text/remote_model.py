"""What models on a server share: where it is, how long to wait, where the key is found."""

from __future__ import annotations

from typing import Any

from bench.api import Dataset, param
from bench.errors import InputError
from bench.text.prompted import PromptedModel


class Remote(PromptedModel):
    """Base of models whose language model stands behind an OpenAI-compatible endpoint."""

    endpoint: str = param("", "address of the server up to and with /v1, such as "
                          "http://localhost:8000/v1")
    api: str = param("chat", "chat: the prompt is a message; completions: it is continued",
                     choices=("chat", "completions"))
    key_from: str = param("", "environment variable with the API key; empty: none is sent")
    timeout: float = param(60.0, "seconds to wait for an answer", above=0)
    retries: int = param(4, "further tries after 429, 5xx and broken connections", low=0, high=20)
    backoff: float = param(1.0, "seconds before the first of them, doubled each time", low=0)
    top: int = param(20, "most probable first tokens asked for (vendors allow 5 to 20)", low=2)

    def __post_init__(self) -> None:
        from bench.text.remote_http import check_key_name, check_url

        super().__post_init__()
        if self.endpoint:
            check_url(self.endpoint)
        check_key_name(self.key_from)
        if self.dtype != "auto":
            raise InputError("the precision is the server's own", key=f"{self.name}: dtype",
                             hint="leave dtype out")
        if self.chat != "auto":
            raise InputError("the chat template is the server's own", key=f"{self.name}: chat",
                             hint="api: chat asks through it")

    def contents(self) -> tuple[str, ...]:
        from bench.text.prompts import content

        return (content(self.prompt or self.own_prompt), *self.retrieving().contents())

    def keyed(self) -> dict[str, Any]:
        return {**super().keyed(), "model": self.model}  # the server's name, no folder here

    def unfit(self, data: Dataset) -> str | None:
        if not self.endpoint:
            return (f"no endpoint is named: {{{self.name}: {{endpoint: http://localhost:8000/v1, "
                    "model: a name that the server knows}}")
        return super().unfit(data)
