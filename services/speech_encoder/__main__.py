"""`python -m services.speech_encoder`."""

from services.shared import settings
from services.shared.rpc import model_service, server
from services.speech_encoder.settings import SpeechEncoderSettings


def main() -> None:
    """Runs the service until SIGTERM or SIGINT."""
    loaded = settings.load(SpeechEncoderSettings, "python -m services.speech_encoder")
    model_service.prepare_process(loaded)
    from services.speech_encoder.servicer import DEFINITION  # imports torch, after its environment is set

    server.run(loaded, DEFINITION)


if __name__ == "__main__":
    main()
