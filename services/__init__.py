"""Everything of Lyra that listens on a socket: four model services, the pipeline through them, the gateway."""

import os

# gRPC's C core logs every connection that goes away; what matters reaches us as errors. Read when grpc is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
# ONNX Runtime tells its makers about every process that loads it, unless told not to; read when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
