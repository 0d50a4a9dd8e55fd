"""The Kubernetes controller: makes a mesh of annotated InferenceServices, Predictors and ServingRuntimes."""
