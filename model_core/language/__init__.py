"""The language model: decoder, attention, low-rank adapters, extractor and chat templates, shared with training."""
