"""The async client: the same methods as the sync one, to be awaited."""
