"""Log lines: one format and one way out, for this package and for the libraries it stands on."""

from __future__ import annotations

from trio_sse.logs.configuring import configure
from trio_sse.logs.lines import escaped, escaped_json

__all__ = ["configure", "escaped", "escaped_json"]
