"""Running and deploying the three programs."""
