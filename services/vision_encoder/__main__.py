"""`python -m services.vision_encoder`."""

from services.shared import settings
from services.shared.rpc import model_service, server
from services.vision_encoder.settings import VisionEncoderSettings


def main() -> None:
    """Runs the service until it is told to stop."""
    loaded = settings.load(VisionEncoderSettings, "python -m services.vision_encoder")
    model_service.prepare_process(loaded)
    from services.vision_encoder.servicer import DEFINITION  # imports torch, which reads what was just prepared

    server.run(loaded, DEFINITION)


if __name__ == "__main__":
    main()
