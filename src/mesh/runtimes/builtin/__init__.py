"""The built-in runtime: ONNX, scikit-learn, XGBoost and LightGBM models, in one process.

Each format needs its library, an optional extra of this package, which is imported with the first model of it.
"""
