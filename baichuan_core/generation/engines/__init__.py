"""Engines: each answers encoded requests in an open batch (`contract`). `choice` decides which one runs."""
