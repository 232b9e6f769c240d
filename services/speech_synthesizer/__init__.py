"""Speech out: texts spoken while they are being written, over gRPC."""
