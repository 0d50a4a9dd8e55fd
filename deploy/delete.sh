#!/usr/bin/env bash
# Removes what install.sh made, but not the definitions of resources, with which all models would go: deploy/delete.sh [NAMESPACE]
set -euo pipefail
cd "$(dirname "$0")"
namespace=${1:-modelmesh-serving}
# Namespaces first, while the controller is there to take their meshes down.
for user in $(kubectl get namespaces --selector modelmesh-enabled=true --output name); do
  kubectl label "$user" modelmesh-enabled-
done
for scope in quickstart cluster; do
  kubectl kustomize "$scope" | sed "s/namespace: modelmesh-serving$/namespace: $namespace/" |
    awk 'BEGIN { RS = "---\n"; ORS = "---\n" } !/kind: CustomResourceDefinition/' |
    kubectl delete --ignore-not-found --filename -
done
