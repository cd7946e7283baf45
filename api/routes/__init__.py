"""One file per resource. A route consists of its dependencies, one call to the service, and the response's format."""
