"""Training data: conversations with images, speech and videos in shards; builds, validation, filters, statistics."""
