"""The speech synthesizer service: answers spoken while they are being generated, over gRPC."""
