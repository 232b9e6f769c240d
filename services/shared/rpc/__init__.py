"""gRPC between the processes: the server and its interceptors, channels, credentials, tensors on the wire, queues.

Nothing here imports torch, because the gateway and the pipeline use this package, too.
"""
