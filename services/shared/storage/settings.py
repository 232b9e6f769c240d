"""Where the object store is: `LYRA_STORE_...` variables, or flags of the processes that use it."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings

from services.shared.settings import CONFIG


class StoreSettings(BaseSettings):
    """The object store. Processes that use it inherit these; `StoreSettings()` reads the environment alone."""

    model_config = CONFIG

    store_endpoint: str = Field(default="127.0.0.1:9000", description="host:port of the object store's S3 API.")
    store_public_endpoint: str = Field(
        default="",
        description="host:port under which clients reach the object store, for uploads that go past the gateway; "
        "empty for store_endpoint.",
    )
    store_secure: bool = Field(default=False, description="Whether the object store is spoken to over TLS.")
    store_public_secure: bool | None = Field(
        default=None, description="Whether clients speak to the object store over TLS; as store_secure by default."
    )
    store_region: str = Field(default="us-east-1", min_length=1, description="Region that requests are signed for.")
    store_bucket: str = Field(
        default="lyra",
        pattern="^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$",
        description="Bucket of everything; it is made where it is missing and the credentials allow it.",
    )
    store_access_key: str = Field(default="lyra", min_length=1, description="Access key of the object store.")
    store_secret_key: SecretStr = Field(
        default=SecretStr(""),
        description="Secret key of the object store; better in a variable than on a command line. Empty for none.",
    )
    store_connect_seconds: float = Field(
        default=2.0, gt=0, description="Seconds that connecting to the object store may take."
    )
    store_seconds: float = Field(
        default=20.0, gt=0, description="Seconds without a byte after which a request to the object store is given up."
    )
    store_tries: int = Field(
        default=4,
        ge=1,
        le=20,
        description="Times that a request to the object store is tried before it counts as down.",
    )
    store_folder: Path | None = Field(
        default=None,
        description="Folder of the object store's data, where that is on a disk of this machine, as `lyra serve` sets "
        "it: nothing is written while that disk has less room than store_reserve_bytes.",
    )
    store_reserve_bytes: int = Field(
        default=256 * 2**20,
        ge=0,
        description="Bytes of the disk of store_folder that are left free. `lyra serve` leaves an eightieth of the "
        "disk at least, because SeaweedFS writes nothing more under a hundredth.",
    )
