"""An embedder of the user's own: `provider: package.module:Class`.

The class is built as `Class(dimensions=..., model_name=..., **options)`. It needs one method, `embed(texts, role)`,
which answers with `Embedded`, or with plain rows of numbers when no text can be rejected. `identity()` and `close()`
are optional.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from embed_pipeline.embedders.protocol import Embedded, Embedder, Role
from embed_pipeline.errors import ConfigurationError, EmbedderError, EmbedPipelineError, WrongAnswer
from embed_pipeline.foreign_words import HIDDEN, readable
from embed_pipeline.spec import VersionSpec

HOW_TO = "docs/how-to/own-embedder.md shows a whole class."
SECRET_NAMES = ("key", "token", "secret", "password", "credential")


def load_custom(spec: VersionSpec) -> Embedder:
    """The user's class, imported, built and made to fit the protocol.

    Raises ConfigurationError when there is no such module or class, or the class takes other arguments or has no
    `embed`; EmbedderError when its constructor raises.
    """
    found = _find(spec.provider)
    arguments = {"dimensions": spec.dimensions, "model_name": spec.model_name, **spec.options}
    taken = {"dimensions", "model_name"} & set(spec.options)
    if taken:
        raise ConfigurationError(
            f"The options of {spec.provider} hold {', '.join(sorted(taken))}, which the version itself declares.",
            next_step="Remove it from `options`.",
        )
    try:
        inspect.signature(found).bind(**arguments)
    except TypeError as exc:
        # Names only: a value may be a secret.
        raise ConfigurationError(
            f"{spec.provider} cannot be built with the arguments {', '.join(arguments)}: {exc}.", next_step=HOW_TO
        ) from exc
    except ValueError:  # a class in C may show no signature; then only the call can tell
        pass
    try:
        built = found(**arguments)
    except EmbedPipelineError:
        raise
    except Exception as exc:
        raise EmbedderError(f"The embedder {spec.provider} cannot be opened: {describe(exc, spec)}") from exc
    if not callable(getattr(built, "embed", None)):
        raise ConfigurationError(f"{spec.provider} has no method embed(texts, role).", next_step=HOW_TO)
    return CustomEmbedder(built, spec)


def require_module(provider: str) -> None:
    """ConfigurationError when the module of a user's class is not installed. Runs nothing of it, but for the packages that it lies in."""
    module_name = provider.partition(":")[0]
    try:
        why = "" if module_name in sys.modules or find_spec(module_name) is not None else "there is none"
    except Exception as exc:  # the packages that it lies in are the user's too
        why = f"it cannot be looked for: {type(exc).__name__}: {readable(exc)}"
    if why:
        raise ConfigurationError(
            f"The provider {provider} needs the module {module_name}, and {why}.",
            next_step="Install its package, or put its directory on PYTHONPATH.",
        )


class CustomEmbedder:
    """A user's object behind the protocol: plain rows become `Embedded`, what it lacks gets a default."""

    def __init__(self, inner: Any, spec: VersionSpec) -> None:
        self._inner = inner
        self._spec = spec

    def embed(self, texts: Sequence[str], role: Role) -> Embedded:
        """What the user's `embed` answers; WrongAnswer when that is neither `Embedded` nor rows of numbers."""
        answer = self._inner.embed(texts, role)
        if isinstance(answer, Embedded):
            return answer
        try:
            return Embedded(np.asarray(answer, dtype=np.float32))
        except (TypeError, ValueError) as exc:
            if inspect.iscoroutine(answer):
                answer.close()
            raise WrongAnswer(
                f"The embedder {self._spec.provider} answered {len(texts)} texts with a {type(answer).__name__} "
                "that is not one row of numbers for each text, all of one length.",
                next_step=HOW_TO,
            ) from exc

    def identity(self) -> Mapping[str, str]:
        """The user's `identity()`, or nothing: then the declaration alone decides the fingerprint."""
        method = getattr(self._inner, "identity", None)
        answer = {} if method is None else method()
        if not isinstance(answer, Mapping) or not all(isinstance(part, str) for item in answer.items() for part in item):
            raise ConfigurationError(
                f"{self._spec.provider}.identity() must answer with a mapping of names to texts.", next_step=HOW_TO
            )
        return dict(answer)

    def close(self) -> None:
        """The user's `close()`, where there is one."""
        method = getattr(self._inner, "close", None)
        if method is not None:
            method()


def describe(exc: Exception, spec: VersionSpec) -> str:
    """`TypeName: message` of a foreign exception, without the values of options that are secret by their name."""
    text = f"{type(exc).__name__}: {readable(exc)}"
    for name, value in spec.options.items():
        if any(word in name.lower() for word in SECRET_NAMES) and isinstance(value, str) and value:
            text = text.replace(value, HIDDEN)
    return text


def _find(provider: str) -> Any:
    module_name, _, class_name = provider.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as exc:
        # A missing parent package is the user's path too; anything else is missing inside the user's module.
        if exc.name is not None and f"{module_name}.".startswith(f"{exc.name}."):
            raise ConfigurationError(
                f"The provider {provider} needs the module {module_name}, and there is no module {exc.name}.",
                next_step="Install its package, or put its directory on PYTHONPATH.",
            ) from None
        raise ConfigurationError(
            f"The module {module_name} of the provider {provider} needs {exc.name}, which is not installed.",
            next_step=f"Run: pip install {exc.name}",
        ) from exc
    except Exception as exc:
        raise ConfigurationError(
            f"The module {module_name} of the provider {provider} cannot be imported: {type(exc).__name__}: {readable(exc)}",
            next_step="Mend the module.",
        ) from exc
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise ConfigurationError(
            f"The module {module_name} has no class {class_name!r}, which the provider {provider} names.",
            next_step="Correct the provider in the version's declaration.",
        )
    return found
