"""gRPC between the processes: the server and its interceptors, channels, tensors on the wire, callers, queues.

Only `model_service` imports what runs models; nothing else here imports torch, so that gateway and pipeline may use it.
"""
