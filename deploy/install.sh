#!/usr/bin/env bash
# Installs the controller: deploy/install.sh --help
set -euo pipefail
cd "$(dirname "$0")"

usage() {
  cat <<'TEXT'
Usage: deploy/install.sh [options]

  -n, --namespace NAME          where the controller goes (modelmesh-serving); made if it is not there
  --namespace-scope-mode        for that namespace alone, with no rights outside it
  --quickstart                  also an etcd and an S3 server with example models, for trying things out
  -u, --user-namespaces "A B"   namespaces that are to have a mesh (cluster scope)
  --cert-manager                the webhook's certificate from cert-manager, not self-made (cluster scope)
  --enable-self-signed-ca       as it is by default: the controller makes the webhook's certificate
  -h, --help

Without --quickstart there must be a Secret model-serving-etcd in the namespace: docs/kubernetes.md says how to make it.
TEXT
}

namespace=modelmesh-serving scope=cluster quickstart=false users=""
while [ $# -gt 0 ]; do
  case $1 in
    -n | --namespace) namespace=${2:?--namespace needs a name}; shift ;;
    --namespace=*) namespace=${1#*=} ;;
    --namespace-scope-mode) scope=namespace ;;
    --quickstart) quickstart=true ;;
    -u | --user-namespaces) users=${2:?--user-namespaces needs names}; shift ;;
    --cert-manager) scope=cert-manager ;;
    --enable-self-signed-ca) ;;
    -h | --help) usage; exit 0 ;;
    *) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
  esac
  shift
done
[ "$scope" = cluster ] || [ "$scope" = cert-manager ] || [ -z "$users" ] || {
  echo "--user-namespaces is for a controller of the whole cluster" >&2; exit 2
}

kubectl get namespace "$namespace" >/dev/null 2>&1 || kubectl create namespace "$namespace"
render() { kubectl kustomize "$1" | sed "s/modelmesh-serving\.svc/$namespace.svc/; s/namespace: modelmesh-serving$/namespace: $namespace/; s#: modelmesh-serving/#: $namespace/#"; }
if [ "$quickstart" = true ]; then
  render quickstart | kubectl apply -f -
elif ! kubectl --namespace "$namespace" get secret model-serving-etcd >/dev/null 2>&1; then
  echo "Secret model-serving-etcd is not in namespace $namespace: make it first, or use --quickstart" >&2
  exit 1
fi
# Pods wait for this Secret, even where no model needs it.
kubectl --namespace "$namespace" get secret storage-config >/dev/null 2>&1 ||
  kubectl --namespace "$namespace" create secret generic storage-config
kubectl apply -k crds
kubectl wait --for=condition=Established --timeout=60s crd/servingruntimes.serving.kserve.io crd/predictors.serving.kserve.io \
  crd/inferenceservices.serving.kserve.io crd/clusterservingruntimes.serving.kserve.io
render "$scope" | kubectl apply -f -
for user in $users; do
  ./setup-namespace.sh "$user"
done
kubectl --namespace "$namespace" rollout status deployment/modelmesh-controller --timeout=180s
echo "installed in namespace $namespace"
