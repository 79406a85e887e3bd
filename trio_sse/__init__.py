"""Redis in, Server-Sent Events out.

`app` is what an ASGI server loads: `hypercorn trio_sse:app`. Importing this package reads no environment and
does no I/O, except that closed standard streams are opened to /dev/null. Settings are read when the server
starts the application.
"""

import trio_sse.standard_streams  # before anything that keeps a file open

# isort: split
import trio_sse.compat  # noqa: F401  (before anything that imports trio_asyncio)
from trio_sse.asgi import Application
from trio_sse.version import __version__

__all__ = ["__version__", "app"]

app = Application()
