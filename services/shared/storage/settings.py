"""Settings of the object store: `LYRA_STORE_...` variables, or flags of the processes that use it."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from services.shared.settings import CONFIG


class StoreSettings(BaseSettings):
    """The object store. Inherited by the settings of its users; `StoreSettings()` reads the environment only."""

    model_config = CONFIG

    store_endpoint: str = Field(default="127.0.0.1:9000", description="host:port of the object store's S3 API.")
    store_public_endpoint: str = Field(
        default="",
        description="host:port at which clients reach the object store, for uploads that bypass the gateway; empty for "
        "store_endpoint.",
    )
    store_secure: bool = Field(default=False, description="Whether to use TLS for the object store.")
    store_public_secure: bool | None = Field(
        default=None, description="Whether clients use TLS for the object store; by default like store_secure."
    )
    store_region: str = Field(default="us-east-1", min_length=1, description="Region for which requests are signed.")
    store_bucket: str = Field(
        default="lyra",
        pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="Bucket for all objects; created if it is missing and the credentials allow it.",
    )
    store_access_key: str = Field(default="lyra", min_length=1, description="Access key of the object store.")
    store_secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Secret key of the object store; prefer the variable to the flag. Empty for anonymous access.",
    )
    store_connect_seconds: float = Field(
        default=2.0, gt=0, description="Seconds that connecting to the object store may take."
    )
    store_seconds: float = Field(
        default=20.0, gt=0, description="Seconds without data after which a request to the object store times out."
    )
    store_tries: int = Field(
        default=4,
        ge=1,
        le=20,
        description="Attempts of a request before the object store counts as unavailable.",
    )
    store_folder: Path | None = Field(
        default=None,
        description="Data folder of an object store on this machine, as set by `lyra serve`: nothing is written while "
        "its disk has less free space than store_reserve_bytes.",
    )
    store_reserve_bytes: int = Field(
        default=256 * 2**20,
        ge=0,
        description="Bytes to leave free on the disk of store_folder. `lyra serve` leaves at least an eightieth of the "
        "disk free, because SeaweedFS stops writing below a hundredth.",
    )
