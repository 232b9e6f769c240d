"""What the services share: errors, tensors, settings, telemetry, queues, the server itself.

Only `model_service` imports `model_core`; everything else here is free of it, so that gateway and pipeline may use it.
"""
