"""What PyInstaller adds to a program that imports azpg: the root certificates.

The package's metadata is added too, because SQLAlchemy finds the dialects by their entry points.
"""

from PyInstaller.utils.hooks import (  # type: ignore[import-untyped]
    collect_data_files,
    copy_metadata,
)

datas = [*collect_data_files("azpg"), *copy_metadata("azpg")]
