"""Looks at an installation of KServe ModelMesh, and tells what of it works here as it is and what does not.

`assess` is values in, values out; `read_installation` reads them from a cluster and changes nothing.
"""

from mesh.controller.migration.assess import Finding, Verdict, assess
from mesh.controller.migration.installation import Installation, RegistryContents
from mesh.controller.migration.read import read_installation

__all__ = ["Finding", "Installation", "RegistryContents", "Verdict", "assess", "read_installation"]
