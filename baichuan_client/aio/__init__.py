"""The async client; its methods are those of the sync client, as coroutines."""
