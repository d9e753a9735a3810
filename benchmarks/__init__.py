"""Inference and training measured against what people would use instead."""
