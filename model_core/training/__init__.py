"""Training of projectors, adapters and the speech generator: the method's four stages, on Hugging Face's Trainer."""
