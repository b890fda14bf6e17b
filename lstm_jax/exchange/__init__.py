"""Weights to and from PyTorch, Keras, ONNX, Flax and safetensors.

    formats.py       the formats that are written and read
    layouts.py       the names and layouts of the parameters in each framework
    metadata.py      the description of a model's inputs in a file
    keras_files.py   files of Keras 3 and 2
    keras_models.py  the check that a Keras model is an LSTM classifier
    onnx_files.py    our own ONNX graph
    onnx_reader.py   the check that an ONNX graph is an LSTM classifier
    onnx_content.py  the bytes of an ONNX file
    flax_files.py    msgpack files of Flax
    imported_run.py  a run directory that begins with imported weights

Begin with `formats.py`.
"""
