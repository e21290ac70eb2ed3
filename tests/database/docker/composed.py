"""What `docker/compose.yaml` says, read without Docker: variables filled in, and services as commands for this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "docker"
FILE = FOLDER / "compose.yaml"

SECRETS = {"POSTGRES_PASSWORD", "DAGSTER_PASSWORD", "EMBED_PIPELINE_PASSWORD", "QDRANT_API_KEY"}

_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<how>:-|:\?)(?P<rest>[^}]*))?\})")


class Missing(Exception):
    """A variable with `:?` is not set; the message is the file's."""


def fill_in(text: str, environment: Mapping[str, str]) -> str:
    """`text` with `$$`, `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced, as Compose does it."""

    def value(match: re.Match[str]) -> str:
        if match["name"] is None:
            return "$"
        found = environment.get(match["name"], "")
        if not found and match["how"] == ":?":
            raise Missing(match["rest"])
        return found or (match["rest"] if match["how"] == ":-" else "") or ""

    return _VARIABLE.sub(value, text)


def as_written() -> dict[str, Any]:
    """The file with its anchors resolved and its variables as they stand."""
    return dict(yaml.safe_load(FILE.read_text(encoding="utf-8")))


def composed(environment: Mapping[str, str]) -> dict[str, Any]:
    """The file as Compose would run it in this environment."""
    return dict(_filled(as_written(), environment))


def services(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The services by name, as Compose would run them."""
    return dict(composed(environment)["services"])


def _filled(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return fill_in(value, environment)
    if isinstance(value, list):
        return [_filled(each, environment) for each in value]
    if isinstance(value, dict):
        return {key: _filled(each, environment) for key, each in value.items()}
    return value


class Loopback:
    """Turns what is written for a network of containers into what runs on this machine: other addresses, ports and folders.

    Nothing else of a command or of its environment is touched, so that a test runs what the file says.
    """

    def __init__(self, ports: Mapping[str, int], folders: Mapping[str, Path]) -> None:
        self._ports = ports
        self._folders = folders

    def here(self, text: str) -> str:
        """One word of a command, or one value of an environment."""
        for name in ("postgres", "qdrant", "code-server"):
            text = re.sub(rf"(?<![\w-]){name}(?=:\d|$)", "127.0.0.1", text)
        text = text.replace("0.0.0.0", "127.0.0.1")
        for port, free in self._ports.items():
            text = re.sub(rf"(?<!\d){port}(?!\d)", str(free), text)
        for folder, place in self._folders.items():
            text = text.replace(folder, str(place))
        return text

    def words(self, command: list[str]) -> list[str]:
        """A command."""
        return [self.here(word) for word in command]

    def variables(self, environment: Mapping[str, Any]) -> dict[str, str]:
        """An environment. Secrets are left as they are."""
        return {
            name: str(value) if name.endswith(("PASSWORD", "KEY")) else self.here(str(value))
            for name, value in environment.items()
        }


def dockerfile() -> list[list[str]]:
    """The instructions of the Dockerfile as words, comments and line ends gone."""
    text = re.sub(r"^\s*#.*\n", "", (FOLDER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [line.split() for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def image_variables() -> dict[str, str]:
    """The environment that the image gives to every role."""
    (words,) = [words[1:] for words in dockerfile() if words[0] == "ENV"]
    return dict(word.split("=", 1) for word in words)


def image_folders() -> list[str]:
    """The folders that the image makes."""
    words = [word for words in dockerfile() if words[0] == "RUN" and "mkdir" in words for word in words]
    return words[words.index("mkdir") + 2 : words.index("&&", words.index("mkdir"))]


def health_of(service: Mapping[str, Any]) -> list[str]:
    """The command that says whether the service is healthy."""
    kind, *words = service["healthcheck"]["test"]
    assert kind == "CMD", "a list runs without a shell of the image"
    return [str(word) for word in words]
