"""Weights from elsewhere: layers made from ONNX files, Keras files and cuDNN's arrays."""
