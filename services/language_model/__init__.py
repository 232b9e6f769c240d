"""The language model: prompts of text, speech and vision tokens in, streamed answers out, over gRPC."""
