"""The system of the published tutorial: its scoring script, word for word, and its client."""
