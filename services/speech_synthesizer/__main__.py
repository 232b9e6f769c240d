"""`python -m services.speech_synthesizer`."""

from services.shared import settings
from services.shared.rpc import model_service, server
from services.speech_synthesizer.settings import SpeechSynthesizerSettings


def main() -> None:
    """Runs the service until SIGTERM or SIGINT."""
    loaded = settings.load(SpeechSynthesizerSettings, "python -m services.speech_synthesizer")
    model_service.prepare_process(loaded)
    from services.speech_synthesizer.servicer import DEFINITION  # imports libraries that read the environment

    server.run(loaded, DEFINITION)


if __name__ == "__main__":
    main()
