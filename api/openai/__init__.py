"""Routes that exist only in OpenAI's API, and the conversion of our records to its objects."""
