"""The object store: what of it the platform uses, over any S3 API."""
