"""The vision encoder service: images and videos to vision tokens, over gRPC."""
