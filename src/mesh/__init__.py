"""A multi-model serving mesh: thousands of models share a few model servers."""
