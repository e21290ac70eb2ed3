"""A provider that is asked over the network, as an embedder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from embed_pipeline.embedders.metering import Meter
from embed_pipeline.embedders.protocol import Embedded, Role, Urgency
from embed_pipeline.embedders.service import Service
from embed_pipeline.spec import AccountSpec, VersionSpec


class RemoteEmbedder:
    """One version's model behind a provider. Thread-safe."""

    def __init__(self, service: Service, spec: VersionSpec, account: AccountSpec, meter: Meter) -> None:
        self._service, self._spec, self._account, self._meter = service, spec, account, meter

    def pack(self, texts: Sequence[str]) -> list[slice]:
        """`texts` cut into requests."""
        raise NotImplementedError

    def embed(self, texts: Sequence[str], role: Role, urgency: Urgency = Urgency.BACKFILL) -> Embedded:
        """Vectors of `texts`."""
        raise NotImplementedError

    def identity(self) -> Mapping[str, str]:
        """What decides the vectors and is not in the declaration."""
        return self._service.identity()

    def close(self) -> None:
        """Close the connections."""
        self._service.close()
