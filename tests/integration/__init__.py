"""Real server processes, a real Valkey, real sockets."""
