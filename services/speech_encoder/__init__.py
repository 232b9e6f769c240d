"""Speech in: recordings to speech tokens or a transcript, over gRPC."""
