"""Input that nobody honest would send, made by Hypothesis: for the parsers here, for running services in
tests/integration/test_fuzz.py."""
