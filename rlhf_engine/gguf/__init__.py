"""GGUF files, llama.cpp's format: read, checked, and converted once into a model folder with safetensors weights.

Each tensor and each metadata key of a file is used, or stands on a reviewed list, or is refused by its name. Nothing
here imports torch: the weights are unpacked with NumPy and the package `gguf`, and everything else in the engine sees
the folder.
"""
