"""The exact fast forms of ``models``: training forward, folded inference, ONNX export. Imports ``models`` and below."""
