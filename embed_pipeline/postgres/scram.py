"""The SCRAM verifier of a password: what the server stores instead of the password."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import b64encode

# PostgreSQL's own default (scram_iterations).
ITERATIONS = 4096


def verifier(password: str) -> str:
    """The password, which is ASCII, as PostgreSQL stores it (RFC 5803): initdb takes it as it is, and no file of its holds the password."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode("ascii"), salt, ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    parts = (b64encode(part).decode() for part in (salt, stored_key, server_key))
    return "SCRAM-SHA-256${}:{}${}:{}".format(ITERATIONS, *parts)
