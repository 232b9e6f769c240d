"""/v1/media: uploads, and media that requests name by id."""
