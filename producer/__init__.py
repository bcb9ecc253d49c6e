"""The key owner: holds images, labels and the secret key; never sees the model."""
