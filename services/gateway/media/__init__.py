"""/v1/media: uploads, and media that requests refer to by id."""
