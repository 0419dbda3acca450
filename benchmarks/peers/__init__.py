"""fastai and timm beside this project, each from its own package in an environment of its own."""
