"""/v1/jobs: long audio."""
