"""What tests share: servers, clients, keys, and a look inside."""
