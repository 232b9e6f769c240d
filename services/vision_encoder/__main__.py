"""`python -m services.vision_encoder`."""

from services.shared import settings
from services.shared.rpc import model_service, server
from services.vision_encoder.settings import VisionEncoderSettings

PRIMITIVES = 256  # of oneDNN: images of one size have few shapes, and each took a third longer with 16


def main() -> None:
    """Runs the service until SIGTERM or SIGINT."""
    loaded = settings.load(VisionEncoderSettings, "python -m services.vision_encoder")
    model_service.prepare_process(loaded, primitives=PRIMITIVES)
    from services.vision_encoder.servicer import DEFINITION  # imports torch, after its environment is set

    server.run(loaded, DEFINITION)


if __name__ == "__main__":
    main()
