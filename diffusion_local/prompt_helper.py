"""Rewrites, translates and varies prompts with a language model behind an OpenAI-compatible API.

Off unless ``prompt_helper_url`` is set; only the prompt and the instruction are sent there. The operator of the server
chooses the address, so it may be local; metadata services are never called, and redirects are not followed.
"""

import ipaddress
import json
import re
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from diffusion_local.errors import Conflict, InvalidParams, NotDone
from diffusion_local.messages import message
from diffusion_local.notify.outbound_hosts import AllowedTargets, Target, check_target
from diffusion_local.options.values import MAX_PROMPT_CHARS, check_choice, check_prompt
from diffusion_local.settings import Settings

if TYPE_CHECKING:
    import httpx

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 90.0  # a model on a CPU takes long
MAX_ANSWER = 256 * 1024  # bytes
MAX_VARIANTS = 8
MAX_LANGUAGE = 40
#: Cloud metadata services, which return credentials.
BLOCKED_NETWORKS = (
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("fe80::/10"),
    ipaddress.ip_network("fd00:ec2::/32"),
)
THINKING, ANSWERING, FENCE = "<think>", "</think>", "```"
BULLET = re.compile(r"^\s*(?:[-*\u2022]|\(?\d{1,2}[.):])\s+")


class Task(StrEnum):
    REWRITE = "rewrite"  # more detail, the same picture
    TRANSLATE = "translate"  # into another language
    VARY = "vary"  # several prompts in the same spirit


TASK_INSTRUCTIONS = {
    Task.REWRITE: "Rewrite the user's prompt for an image generator: keep its subject and intention, add concrete "
    "visual detail (composition, light, colours, materials). Answer with the new prompt only, in one paragraph.",
    Task.TRANSLATE: "Translate the user's prompt for an image generator into {language}. Keep weights such as "
    "(word:1.2), tags such as <lora:name:1> and names as they are. Answer with the translation only.",
    Task.VARY: "Write {count} different prompts for an image generator in the spirit of the user's prompt, which vary "
    "subject, setting or style. Answer with one prompt on each line, without numbers and without any other text.",
}


@dataclass(frozen=True, slots=True)
class HelpedPrompt:
    """``prompts`` made from ``original``; ``model``: the model name in the helper's response."""

    task: str
    original: str
    prompts: list[str]
    model: str


class PromptHelper:
    def __init__(self, settings: Settings) -> None:
        self._url = settings.prompt_helper_url.strip()
        self._model = settings.prompt_helper_model
        self._key = settings.prompt_helper_key

    @property
    def is_on(self) -> bool:
        return bool(self._url)

    def help(self, prompt: str, task: str, language: str, count: int) -> HelpedPrompt:
        """Run a task on a prompt. Raises InvalidParams, Conflict if the helper is off, and NotDone if it gives no
        usable answer.
        """
        check_prompt("prompt", prompt, required=True)
        chosen = Task(check_choice("task", task, tuple(Task)))
        if not re.fullmatch(rf"[\w .()-]{{1,{MAX_LANGUAGE}}}", language):
            raise InvalidParams("language", message("too_long", most=MAX_LANGUAGE, got=len(language)))
        if not self.is_on:
            raise Conflict(message("helper_off"))
        instruction = TASK_INSTRUCTIONS[chosen].format(language=language, count=count)
        text, model = answer_in(self._ask(instruction, prompt))
        prompts = [text] if chosen is not Task.VARY else lines_of(text)[:count]
        for each in prompts:
            try:
                check_prompt("prompt", each, required=True)
            except InvalidParams as problem:
                raise NotDone(message("helper_unusable", problem=problem.problem)) from None
        if not prompts:
            raise NotDone(message("helper_unusable", problem=message("empty_prompt")))
        return HelpedPrompt(str(chosen), prompt, prompts, model or self._model)

    def _ask(self, instruction: str, prompt: str) -> bytes:
        import httpx

        target = checked(self._url)
        body = {
            "model": self._model,
            "messages": [{"role": "system", "content": instruction}, {"role": "user", "content": prompt}],
            "stream": False,
        }
        headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            return post(target, json.dumps(body).encode(), headers)
        except (httpx.HTTPError, OSError) as error:
            raise NotDone(message("helper_away", error=f"{type(error).__name__}: {error}"[:200])) from None


def checked(url: str) -> Target:
    """Resolve and check the helper's URL. Raises NotDone for an address that must not be called."""
    try:
        plain = check_target(url, AllowedTargets(networks=ALL_NETWORKS), "prompt_helper_url")
    except InvalidParams as problem:
        raise NotDone(message("helper_away", error=problem.message)) from None
    if any(
        address in network
        for address in plain.addresses
        for network in BLOCKED_NETWORKS
        if address.version == network.version
    ):
        raise NotDone(message("helper_away", error=f"{plain.host} is never called"))
    path = plain.url.path.rstrip("/")
    path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
    return Target(plain.url.copy_with(path=path), plain.host, plain.addresses)


ALL_NETWORKS = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


def post(target: Target, body: bytes, headers: dict[str, str]) -> bytes:
    """Send a request; returns the body, bounded in bytes and time. Raises NotDone, httpx.HTTPError and OSError."""
    import httpx

    deadline = time.monotonic() + TOTAL_SECONDS
    limits = httpx.Timeout(TOTAL_SECONDS, connect=CONNECT_SECONDS)
    with httpx.Client(trust_env=False, follow_redirects=False, timeout=limits) as client:
        for place, address in enumerate(target.addresses):
            request = client.build_request(
                "POST",
                target.url.copy_with(host=str(address)),
                content=body,
                headers={"host": target.url.netloc.decode(), "content-type": "application/json", **headers},
                extensions={"sni_hostname": target.host},
            )
            try:
                response = client.send(request, stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if place == len(target.addresses) - 1:
                    raise
                continue
            try:
                return read(response, deadline)
            finally:
                response.close()
    raise AssertionError("a checked target has an address")


def read(response: "httpx.Response", deadline: float) -> bytes:
    if response.status_code != 200:
        raise NotDone(message("helper_away", error=f"it answered {response.status_code}"))
    content = b""
    for piece in response.iter_raw():
        content += piece
        if len(content) > MAX_ANSWER:
            raise NotDone(message("helper_away", error=f"its answer has more than {MAX_ANSWER} bytes"))
        if time.monotonic() > deadline:
            raise NotDone(message("helper_away", error=f"no whole answer within {TOTAL_SECONDS:g} s"))
    return content


def answer_in(data: bytes) -> tuple[str, str]:
    """Parse a chat completion; returns (text, name of the model). Raises NotDone."""
    try:
        answer: Any = json.loads(data)
        text, model = answer["choices"][0]["message"]["content"], answer.get("model", "")
        if not isinstance(text, str):
            raise TypeError
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise NotDone(message("helper_away", error="its answer is no chat completion")) from None
    text = without_fence(without_thinking(text).strip())
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        text = text[1:-1].strip()
    return text[: MAX_VARIANTS * MAX_PROMPT_CHARS], str(model)[:200]


def without_thinking(text: str) -> str:
    """Remove reasoning between its tags. Takes linear time, even with many unclosed tags."""
    spoken: list[str] = []
    while True:
        before, opened, rest = text.partition(THINKING)
        _, closed, after = rest.partition(ANSWERING)
        if not (opened and closed):
            return "".join((*spoken, text))
        spoken.append(before)
        text = after


def without_fence(text: str) -> str:
    """The content of the first fenced block; the whole text if there is none."""
    _, opened, rest = text.partition(FENCE)
    language, newline, block = rest.partition("\n")
    inside, closed, _ = block.partition(FENCE)
    if opened and newline and closed and (language.isalnum() or not language.strip()):
        return inside.strip()
    return text


def lines_of(text: str) -> list[str]:
    """The distinct prompts in a text, one per line, without bullets and numbers."""
    found = (BULLET.sub("", line).strip().strip('"').strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in found if line))
