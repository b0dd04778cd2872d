"""Where data files live, and how missing ones are downloaded."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

# Seconds. The first one bounds the wait of a machine without a network, the second one a stalled transfer.
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 30.0


class DataError(Exception):
    """Data files are missing, damaged or cannot be downloaded. The message says which file and how to mend it."""


def resolve_data_dir(data_dir: Path | None) -> Path:
    """Return the folder that holds the data sets: the given one, else $IMAGEGEN_DATA_DIR, else the user's cache."""
    if data_dir is not None:
        return data_dir.expanduser()
    # An empty variable counts as unset: Path("") would be the working directory.
    if from_environment := os.environ.get("IMAGEGEN_DATA_DIR"):
        return Path(from_environment).expanduser()
    return Path(pooch.os_cache("imagegen"))


def download(path: Path, urls: Sequence[str], sha256: str) -> None:
    """Download one file to `path` from the first of `urls` that delivers the content with this SHA-256.

    The file appears under its name only when it is complete and verified.

    Raises:
        DataError: no address delivered it; the message names the file, the reason per host, and what to do.

    """
    downloader = pooch.HTTPDownloader(
        progressbar=sys.stderr.isatty(), chunk_size=1 << 16, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)
    )
    failures = []
    for url in urls:
        try:
            pooch.retrieve(url, f"sha256:{sha256}", fname=path.name, path=path.parent, downloader=downloader)
            return
        except (OSError, ValueError) as error:  # requests raises OSErrors, pooch a ValueError for a wrong hash
            failures.append(f"{urlsplit(url).netloc}: {_reason(error)}")
    raise DataError(
        f"Cannot download {path.name} ({'; '.join(failures)}).\n"
        f"Put the file into {path.parent} yourself, or choose data=digits, which needs no download."
    )


def _reason(error: Exception) -> str:
    """Shorten an error to a few words; requests' own messages fill several lines."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return "timed out"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
        return "wrong SHA-256"
    return getattr(error, "strerror", None) or type(error).__name__
