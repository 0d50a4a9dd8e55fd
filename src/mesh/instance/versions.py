"""A deployment's version as a number that grows, by which newer instances are preferred for new copies."""

import re
from datetime import UTC, datetime, timedelta

_BUILD_OF_DAY = re.compile(r".+-(\d{8})-(\d{1,8})")
_MINUTE = re.compile(r"(\d{8}-\d{4})(?:-(\d{1,8}))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def version_number(version: str) -> int:
    """Reads ``<anything>-YYYYMMDD-<n>`` or ``YYYYMMDD-HHmm[-<n>]``, as KServe ModelMesh does.

    Returns: epoch milliseconds of the UTC date or minute, plus n; 0 for a version of any other form.
    """
    if found := _MINUTE.fullmatch(version):
        return _number(found.group(1), "%Y%m%d-%H%M", found.group(2) or "0")
    if found := _BUILD_OF_DAY.fullmatch(version):
        return _number(found.group(1), "%Y%m%d", found.group(2))
    return 0


def _number(date: str, form: str, more: str) -> int:
    try:
        day = datetime.strptime(date, form).replace(tzinfo=UTC)
    except ValueError:
        return 0
    return (day - _EPOCH) // timedelta(milliseconds=1) + int(more)
