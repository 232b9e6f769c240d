"""Speech out: answers spoken while they are being written, over gRPC."""
