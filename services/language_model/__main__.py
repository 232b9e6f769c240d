"""`python -m services.language_model`."""

from services.language_model.settings import LanguageModelSettings
from services.shared import settings
from services.shared.rpc import model_service, server

PRIMITIVES = 256  # of oneDNN: one for each product and number of tokens in a step


def main() -> None:
    """Runs the service until SIGTERM or SIGINT."""
    loaded = settings.load(LanguageModelSettings, "python -m services.language_model")
    model_service.prepare_process(loaded, primitives=PRIMITIVES)
    from services.language_model.servicer import DEFINITION  # imports torch, after its environment is set

    server.run(loaded, DEFINITION)


if __name__ == "__main__":
    main()
