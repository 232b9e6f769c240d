"""Pictures in, vision tokens for the language model out."""
