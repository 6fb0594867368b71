"""ONNX files that packages ship: which are imported, how exactly, how fast, in how much memory."""
