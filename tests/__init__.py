"""Tests, a twin for each module. Those under `integration` start real server processes."""

from __future__ import annotations

import hypothesis

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")
