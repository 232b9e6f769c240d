"""Vision models: images and videos to vision tokens for the language model, and the decoding of both."""
