#!/usr/bin/env bash
# Gives a namespace a mesh: deploy/setup-namespace.sh NAMESPACE...
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 NAMESPACE..." >&2; exit 2; }
for namespace in "$@"; do
  kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace"
  kubectl --namespace "$namespace" get secret storage-config >/dev/null 2>&1 ||
    kubectl --namespace "$namespace" create secret generic storage-config
  kubectl label --overwrite namespace "$namespace" modelmesh-enabled=true
done
