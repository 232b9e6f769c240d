"""Long-audio jobs: their objects in the store, the state that these imply, and the queues of work to do next."""
