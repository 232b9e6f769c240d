"""gRPC between the processes: the server and its interceptors, channels, tensors on the wire, callers, queues.

Only `model_service` imports `model_core`; everything else here is free of it, so that gateway and pipeline may use it.
"""
