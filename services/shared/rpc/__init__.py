"""gRPC between the processes: the server and its interceptors, channels, credentials, tensors on the wire, queues.

Only `model_service` and `sampling_codec` import `model_core`, and nothing imports torch, because the gateway and the
pipeline use this package.
"""
