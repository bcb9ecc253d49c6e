"""Scoring in the wire format of `encrypted-inference` 0.9: ours, its native library's, its own."""
