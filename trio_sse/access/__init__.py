"""Who may have a stream."""
