"""Import of weights: layers from ONNX files, Keras files and cuDNN's arrays."""
