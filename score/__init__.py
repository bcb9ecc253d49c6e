"""The model owner: scores ciphertexts with evaluation keys; holds no secret key."""
