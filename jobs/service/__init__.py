"""The use cases of the service. Each function takes the caller's connection, whose transaction it is part of."""
