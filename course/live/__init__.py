"""The live page: a whole Vision Transformer in the browser, as a folder and as one file."""
