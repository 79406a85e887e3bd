"""HTTP/2 in place of Hypercorn's: no request ends or blocks the others of its connection."""
