"""The way in on sockets, in Hypercorn's place. Imports no Quart."""
