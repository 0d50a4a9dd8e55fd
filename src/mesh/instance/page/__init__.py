"""The page of an instance: what is where in the mesh, what is hot, what loads, what failed, what was decided and why.

Files in ``static`` are sent as they are; what they show comes as JSON from the functions of ``mesh.admin.v1.Admin``.
Nothing can be changed through it.
"""

from mesh.instance.page.server import Page

__all__ = ["Page"]
