"""Client of the object store, over any S3-compatible API."""
