"""What makes data sets: a builder for each kind, on one frame that resumes, runs in parallel and repeats itself."""
