"""Stored weights: packages that are pulled and converted, published checkpoints, PEFT adapters, and their formats.

Each third-party format has one module here, which maps its tensor names to those of our modules and back. Nothing is
loaded before its names and shapes have been checked.
"""
