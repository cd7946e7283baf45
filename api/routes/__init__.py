"""One file a resource. A route is its dependencies, one call of the service, and the form of the answer."""
