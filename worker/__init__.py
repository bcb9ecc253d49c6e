"""The carrier: moves ciphertext bytes from blob to endpoint to blob; knows no scheme."""
