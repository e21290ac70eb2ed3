"""One open engine for each Qdrant that this process talks to, shared by all stores of all indexes."""

from __future__ import annotations

import os
import threading

from embed_pipeline.postgres.home import default_home
from embed_pipeline.spec import QdrantSpec
from embed_pipeline.stores.qdrant.engine import Address, Engine

_engines: dict[Address, Engine] = {}
_users: dict[Address, int] = {}
_lock = threading.Lock()


def _forked() -> None:
    """A thread of the parent may hold the lock. The engines see to themselves."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def address(spec: QdrantSpec) -> Address:
    """Where the declared Qdrant is; without a URL a folder in the package's home."""
    folder = None if spec.url is not None else (spec.path or default_home() / "qdrant").absolute()
    return Address(spec.url, folder, spec.api_key_env, spec.timeout_seconds)


def take(spec: QdrantSpec) -> Engine:
    """The engine of the declared Qdrant, opened when it is first asked something. Each `take` needs its `give_back`."""
    wanted = address(spec)
    with _lock:
        engine = _engines.setdefault(wanted, Engine(wanted, os.environ.get))
        _users[wanted] = _users.get(wanted, 0) + 1
        return engine


def give_back(engine: Engine) -> None:
    """Close the engine when nobody uses it any more: local mode's folder is then free for another process."""
    with _lock:
        left = _users.get(engine.address, 0) - 1
        if left > 0:
            _users[engine.address] = left
            return
        _users.pop(engine.address, None)
        _engines.pop(engine.address, None)
    engine.close()
