"""The descriptor pool of the generated modules.

A pool of their own keeps them apart from other packages that define the same messages:
``tritonclient``, MLServer and the etcd clients all bring an ``inference`` or ``etcdserverpb``
package, and the default pool of a process takes each symbol only once.
"""

from google.protobuf.descriptor_pool import DescriptorPool

POOL: DescriptorPool = DescriptorPool()
