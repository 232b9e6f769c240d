"""What a request does: its parts are encoded, answered, transcribed and spoken by calls to the model services.

Gateway and workers share it. It knows the services by `lyra.v1` alone, and imports no model.
"""
