"""What the integration tests share: processes, clients, hostile input."""
