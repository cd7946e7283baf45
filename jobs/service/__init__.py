"""The use cases of the service. Each function takes the caller's connection and runs in its transaction."""
