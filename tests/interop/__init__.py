"""Working with what others wrote: the SDK's client, the published score.py, Azure ML's server."""
