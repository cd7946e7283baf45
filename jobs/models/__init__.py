"""Information about a model that is known without loading it: its directory, details and displayed configuration."""
