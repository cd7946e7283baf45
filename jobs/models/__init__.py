"""What is known of a model without loading it: its directory, its details and its displayed configuration."""
