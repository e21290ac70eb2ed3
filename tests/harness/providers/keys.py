"""Keys of the loopback provider, and the variables that the SDKs read them from."""

from __future__ import annotations

VARIABLES = {"openai": "OPENAI_API_KEY", "cohere": "CO_API_KEY", "voyage": "VOYAGE_API_KEY"}
# The keys that the server takes unless a test says otherwise. They look like real ones.
KEYS = {
    "openai": "sk-proj-loopback0000000000000000000000000000000000openai",
    "cohere": "loopbackcohere000000000000000000000000ok",
    "voyage": "pa-loopback000000000000000000000000000voyage",
}
