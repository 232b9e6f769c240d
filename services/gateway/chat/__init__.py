"""/v1/chat/completions: routes, schemas, and the mapping between them and the pipeline."""
