"""Pictures in, vision tokens out, over gRPC."""
