"""Information about a model that needs no loading: its directory, its details and its displayed configuration."""
