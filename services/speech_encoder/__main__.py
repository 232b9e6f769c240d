"""`python -m services.speech_encoder`."""

from services.shared import settings
from services.shared.rpc import model_service, server
from services.speech_encoder.settings import SpeechEncoderSettings


def main() -> None:
    """Runs the service until it is told to stop."""
    loaded = settings.load(SpeechEncoderSettings, "python -m services.speech_encoder")
    model_service.prepare_process(loaded)
    from services.speech_encoder.servicer import DEFINITION  # imports torch, which reads what was just prepared

    server.run(loaded, DEFINITION)


if __name__ == "__main__":
    main()
