"""Data set builders, one per kind, on a common framework: resumable, parallel and reproducible."""
