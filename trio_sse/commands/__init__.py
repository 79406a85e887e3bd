"""Commands for a developer at a terminal: publish, listen, make a token."""
