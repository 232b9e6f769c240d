"""Training of Lyra's own parts: projectors, adapters. `lyra train nano` is made of these."""
