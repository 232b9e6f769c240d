"""Training data: conversations with pictures, speech and videos, kept in shards; their checks, figures and filters."""
