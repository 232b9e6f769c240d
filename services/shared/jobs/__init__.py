"""Long-audio jobs: what is kept of them in the object store, what state that makes, and what there is to do next."""
