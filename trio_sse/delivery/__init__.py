"""From a message to the bytes of each connection. Trio, synchronous; no Redis, no Quart."""
