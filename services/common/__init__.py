"""What the services share: errors, tensors, settings, telemetry, queues, the server itself.

Only `model_service` and the processes of `sandbox` import `model_core`; everything else here is free of it, so that
gateway and pipeline may use it.
"""
