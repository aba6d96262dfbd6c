"""One way to write JSON, and one to name bytes: everything that is hashed, sent or compared is written so."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def to_json(record: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII, no NaN or infinity."""
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256(data: bytes) -> str:
    """SHA-256 in lower-case hexadecimal."""
    return hashlib.sha256(data).hexdigest()
