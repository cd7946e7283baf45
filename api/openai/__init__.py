"""The routes that only OpenAI's API has, and how its objects show our records."""
