"""The few errors of l2d_ray. Each message is a full sentence: what was seen, what is wanted, what to do.

    L2DError
    ├── ConfigError     a setting: unknown key, value out of range, settings that contradict each other
    ├── DataError       input data: a missing file, a wrong column, nothing left after filtering
    ├── ArtefactError   something stored: missing, half-written, corrupt, or made by another model
    │   ├── ConflictError   another writer was first; the same change may succeed when made again
    │   └── StorageError    what is to be stored could not be written, for example because the disk is full
    ├── RequestError    a request's value; `field` is its path in the request
    │   └── NotFoundError    what the request is about does not exist
    └── UnavailableError    a service, or a part of it, cannot answer now

Jobs turn any of them into exit code 2, the HTTP service into a 4xx or 503 problem answer.
"""


class L2DError(Exception):
    """Root of every error that l2d_ray raises on purpose."""


class ConfigError(L2DError):
    """A setting is unknown, out of range or contradicts another."""


class DataError(L2DError):
    """Input data is missing, malformed or empty after filtering."""


class ArtefactError(L2DError):
    """A stored artefact is missing, incomplete, corrupt or does not match what reads it."""


class ConflictError(ArtefactError):
    """Another writer committed first; nothing was changed, and the same change may succeed when made again."""


class StorageError(ArtefactError):
    """Storage refused a write; nothing was committed."""


class RequestError(L2DError):
    """A value in a request cannot be used.

    Args:
        field: path of the value, for example ``history.2`` or ``num_neighbors``.
        message: the sentence for the caller.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class NotFoundError(RequestError):
    """What a request is about does not exist."""


class UnavailableError(L2DError):
    """The service, or a part of it, cannot answer now; the same request may succeed later.

    Args:
        message: the sentence for the caller.
        retry_after_s: when to try again; None where waiting is not known to help.
    """

    def __init__(self, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
