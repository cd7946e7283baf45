"""The routes, one file per resource. Each consists of its dependencies, one service call, and the response's format."""
