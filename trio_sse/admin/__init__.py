"""For whoever has SSE_ADMIN_TOKEN: what happened and happens, and the end of streams, over all processes."""
