"""The front: connections on sockets, in place of Hypercorn's TCP servers. Imports no Quart."""
