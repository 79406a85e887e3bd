"""HTTP/2 in Hypercorn's place: no request ends or silences the others of its connection."""
