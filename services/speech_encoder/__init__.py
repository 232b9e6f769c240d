"""The speech encoder service: recordings to speech tokens, transcripts, or both, over gRPC."""
