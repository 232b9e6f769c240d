"""What model services need around `model_core`: CPU threads, logging, errors."""

import math
import os

from services.shared import telemetry
from services.shared.service_errors import InvalidInput, Overloaded, ServiceError, Unavailable
from services.shared.settings import ServiceSettings

_SPINS = 2000  # about 10 microseconds

log = telemetry.get_logger(__name__)


def prepare_process(settings: ServiceSettings, *, primitives: int = 16) -> None:
    """Sets the number of CPU threads of this process. Must be called before torch is imported, which reads it once.

    Several services share a few cores, so idle threads must sleep instead of spinning; but not at once, since the next
    product follows within microseconds. On two free cores that makes 16 answers 1.6 times as fast.

    Args:
        settings: Of the service.
        primitives: Capacity of oneDNN's cache of primitives, which needs one for each shape of each layer. For the
            speech encoder, every length of a recording is a new shape: the default of 1,024 would take half a GB.
    """
    count = str(settings.thread_count())
    os.environ["OMP_WAIT_POLICY"] = "passive"
    os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))
    os.environ["OMP_NUM_THREADS"] = count
    os.environ["MKL_NUM_THREADS"] = count
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(primitives))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(primitives))


def log_number_formats(**of_parts: str) -> None:
    """Logs the number format of each part. It depends on the processor, and the last digits of results depend on it."""
    from model_core.kernels import instructions

    log.info("number formats", instructions=instructions(), **of_parts)


def translate(error: Exception) -> ServiceError | None:
    """The service error for an error of `model_core`; None for any other."""
    from model_core import errors

    if isinstance(error, errors.InvalidInput):
        return InvalidInput(error.field, error.message)
    if isinstance(error, errors.CheckpointError):
        return InvalidInput(error.name, error.message)
    if isinstance(error, errors.UnknownPreset):
        return InvalidInput("preset", str(error))
    if isinstance(error, errors.QueueFull):
        return Overloaded(str(error), float(max(1, math.ceil(error.retry_after))))
    if isinstance(error, errors.WeightsMissing):
        return Unavailable("model", str(error))
    return None
