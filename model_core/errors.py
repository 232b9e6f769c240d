"""What model code raises when it is asked for something it cannot do."""


class InvalidInput(ValueError):
    """A value from outside is not acceptable.

    Args:
        field: Name of the value, for example `max_tokens`.
        message: What is wrong and which limit holds; shown to users as it is.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message

    def __reduce__(self) -> tuple[type["InvalidInput"], tuple[str, ...]]:
        return type(self), (self.field, self.message)  # processes hand errors on by pickle


class UnknownPreset(ValueError):
    """No preset has that name."""


class WeightsMissing(RuntimeError):
    """Weights of a preset are not on this machine, or not whole."""


class CheckpointError(WeightsMissing):
    """Weights from elsewhere are not whole, or do not fit the model that they are meant for.

    Args:
        name: The tensor, the field of a config or the file that is wrong.
        message: What is wrong with it, and what would be right.
    """

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.name = name
        self.message = message

    def __reduce__(self) -> tuple[type["CheckpointError"], tuple[str, str]]:
        return type(self), (self.name, self.message)


class QueueFull(Exception):
    """No more requests may wait.

    Attributes:
        waiting: Number of those that do.
        limit: How many may.
        retry_after: Estimated seconds until there is a place.
    """

    def __init__(self, waiting: int, limit: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting, the limit is {limit}")
        self.waiting = waiting
        self.limit = limit
        self.retry_after = retry_after
