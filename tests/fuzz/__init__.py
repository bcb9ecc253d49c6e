"""Coverage-guided fuzzing of what parses bytes from outside; `make fuzz` runs each for a while."""
