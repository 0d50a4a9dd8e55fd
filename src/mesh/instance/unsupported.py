"""Environment variables that an instance does not act on, and what it says of them."""

import difflib
import os
from collections.abc import Mapping

from mesh.instance.settings import SettingError, Settings, settings_of

#: Variables of KServe ModelMesh that mean something there and nothing here, with the reason.
_WITHOUT_EFFECT = {
    "MM_SEND_DEST_ID": "only of use with the pod-to-pod protocol of the Java process",
    "MM_INTRACLUSTER_CLIENTAUTH": "connections between instances are plaintext",
}
#: Variables that ask for what must not be dropped silently.
_REFUSED = {
    "MM_TLS_PRIVATE_KEY_PATH": "TLS is not supported; without it requests would travel unprotected",
    "MM_SVC_GRPC_PRIVATE_KEY_PATH": "TLS is not supported; without it requests would travel unprotected",
    "MM_TLS_KEY_CERT_PATH": "TLS is not supported; without it requests would travel unprotected",
    "MM_TLS_CLIENT_AUTH": "TLS is not supported; clients could not be authenticated",
}


def check_unsupported(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Looks for variables that an instance does not act on.

    Returns: a warning for each unsupported and each unknown ``MM_*`` name, the latter with the nearest known.

    Raises:
        SettingError: a variable asks for protection that is not there.
    """
    known = {name for spec in settings_of(Settings) for name in spec.metadata["names"]}
    warnings = []
    for name in sorted(environment):
        if not name.startswith("MM_") or name in known:
            continue
        if name in _REFUSED and environment[name].upper() not in {"", "NONE"}:
            raise SettingError(f"{name} is set, but {_REFUSED[name]}: unset it to go on")
        if reason := _WITHOUT_EFFECT.get(name):
            warnings.append(f"{name} has no effect: {reason}")
        elif name not in _REFUSED:
            near = difflib.get_close_matches(name, known, n=1)
            warnings.append(f"{name} is not a setting" + (f"; did you mean {near[0]}?" if near else ""))
    return warnings
