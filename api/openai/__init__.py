"""Routes that only OpenAI's API has, and the conversion of our records to its objects."""
