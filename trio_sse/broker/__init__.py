"""Redis. The asyncio side of the service, and nothing else of it."""
