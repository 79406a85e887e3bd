"""Redis in, Server-Sent Events out.

`app` is what an ASGI server loads: `hypercorn trio_sse:app`. Importing this package does no I/O
and reads no environment; settings are read when the server starts the application. Only standard streams that
are closed are opened, to /dev/null.
"""

import trio_sse.standard_streams  # before anything that opens a file and keeps it

# isort: split
import trio_sse.compat  # noqa: F401  (before anything that imports trio_asyncio)
from trio_sse.asgi import Application
from trio_sse.version import __version__

__all__ = ["__version__", "app"]

app = Application()
