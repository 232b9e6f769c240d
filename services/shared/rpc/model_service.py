"""Where services meet `model_core`: CPU threads, loading a preset, errors. The only module here that imports it."""

import os

from services.shared import telemetry
from services.shared.service_errors import InvalidInput, ServiceError, Unavailable
from services.shared.settings import ServiceSettings

log = telemetry.get_logger(__name__)


def prepare_process(settings: ServiceSettings) -> None:
    """Gives the process its CPU threads. To be called before torch is imported, which reads these once.

    Several services share a few cores: threads that wait for work must sleep, not spin. Every length of a recording is
    a shape of its own to oneDNN, which would keep what it prepared for a thousand of them: half a GB.
    """
    count = str(settings.thread_count())
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ["OMP_NUM_THREADS"] = count
    os.environ["MKL_NUM_THREADS"] = count
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "16")


def log_number_formats(**of_parts: str) -> None:
    """Tells in which numbers a service's parts multiply: that follows from the processor, and so do last digits."""
    from model_core.kernels import instructions

    log.info("number formats", instructions=instructions(), **of_parts)


def translate(error: Exception) -> ServiceError | None:
    """What an error of `model_core` means to a caller; None for an error that is not one of its own."""
    from model_core import errors

    if isinstance(error, errors.InvalidInput):
        return InvalidInput(error.field, error.message)
    if isinstance(error, errors.CheckpointError):
        return InvalidInput(error.name, error.message)
    if isinstance(error, errors.UnknownPreset):
        return InvalidInput("preset", str(error))
    if isinstance(error, errors.WeightsMissing):
        return Unavailable("model", str(error))
    return None
