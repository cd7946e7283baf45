"""Engines: each takes encoded requests and yields text. Which one runs is told by `choice`."""
