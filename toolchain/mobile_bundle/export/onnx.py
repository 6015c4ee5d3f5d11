def export_onnx(directory):
    raise NotImplementedError
