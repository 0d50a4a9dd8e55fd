"""A node of a Kubernetes cluster whose pods run as processes of this machine, without a container engine."""
